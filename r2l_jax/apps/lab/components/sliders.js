// A slider for each knob, grouped by stage: its value, the tolerated interval, and which way the loss rises.
export default {
  template: `
    <div class="lab-sliders">
      <details v-for="group in groups" :key="group.stage" class="lab-group" open>
        <summary>{{ group.stage }}<span v-if="group.note" class="lab-note">{{ group.note }}</span></summary>
        <div v-for="knob in group.knobs" :key="knob.name" class="lab-knob" :class="{moved: at(knob) !== 0}">
          <label :for="'knob-' + knob.name" :title="knob.label">{{ knob.label }}</label>
          <output :for="'knob-' + knob.name" aria-live="off">{{ knob.text }}</output>
          <button type="button" class="lab-reset" :disabled="at(knob) === 0" :aria-label="'reset ' + knob.label"
                  title="back to the default" @click="send(knob, 0)">↺</button>
          <div class="lab-track" :style="{'--at': share(knob, at(knob)), '--zero': share(knob, 0)}">
            <span v-if="knob.band" class="lab-band" :title="knob.bandTitle"
                  :style="{left: part(knob, knob.band[0]), right: rest(knob, knob.band[1])}"></span>
            <span class="lab-zero"></span>
            <span v-if="knob.slope" class="lab-slope" :class="knob.slope > 0 ? 'up' : 'down'" :title="knob.slopeTitle"
                  :style="{'--length': Math.abs(knob.slope)}"></span>
            <input type="range" :id="'knob-' + knob.name" :min="knob.low" :max="knob.high" :step="(knob.high - knob.low) / 400"
                   :value="at(knob)" :aria-valuetext="spoken(knob)"
                   @input="send(knob, +$event.target.value)" @change="send(knob, +$event.target.value)"
                   @dblclick="send(knob, 0)">
          </div>
        </div>
      </details>
    </div>`,
  // The number of the latest move that the groups include.
  props: { groups: Array, seen: Number },
  // The latest move of each slider: its number and its position.
  data: () => ({ moves: {}, moved: 0 }),
  methods: {
    // Until the server has seen the latest move of a slider, its position is older than the slider's own.
    at(knob) {
      const move = this.moves[knob.name];
      return move && move[0] > this.seen ? move[1] : knob.position;
    },
    send(knob, position) {
      // Steps are counted from the low end, so that rounding may keep them from hitting the default.
      if (Math.abs(position) < (knob.high - knob.low) / 800) position = 0;
      this.moves[knob.name] = [++this.moved, position];
      // Events in quick succession may be dropped, so each holds all moves that the server has not seen.
      const unseen = Object.entries(this.moves).filter(([, move]) => move[0] > this.seen);
      this.$emit("move", Object.fromEntries(unseen));
    },
    spoken(knob) {
      return [knob.text, knob.bandTitle, knob.slopeTitle].filter(Boolean).join("; ");
    },
    share(knob, position) {
      return (position - knob.low) / (knob.high - knob.low);
    },
    part(knob, position) {
      return 100 * Math.min(Math.max(this.share(knob, position), 0), 1) + "%";
    },
    rest(knob, position) {
      return 100 * (1 - Math.min(Math.max(this.share(knob, position), 0), 1)) + "%";
    },
  },
};
