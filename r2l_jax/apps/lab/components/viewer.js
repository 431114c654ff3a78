// Shows a picture in its box, with a wipe to the default rendering and drawings above it.
// A new picture appears when it is decoded, so that nothing flickers; one that is late is dropped.
export default {
  template: `
    <div class="lab-viewer">
      <div v-if="shown" class="lab-frame" ref="frame" :style="{'--w': width, '--h': height, '--cut': cut * 100 + '%'}"
           :class="{comparing: compare}"
           @pointerdown="grab" @pointermove="drag" @pointerup="grabbed = false" @pointercancel="grabbed = false">
        <img class="lab-now" :class="{pixelated: width < 400}" :src="shown" :data-serial="serial" alt="processed picture"
             draggable="false">
        <img v-if="outline" class="lab-over" :src="path(outline)" alt="" draggable="false">
        <template v-if="compare">
          <img class="lab-before" :class="{pixelated: width < 400}" :src="path(before)" alt="default rendering"
               draggable="false">
          <div class="lab-wipe" role="slider" tabindex="0" aria-label="wipe between the default and the current rendering"
               :aria-valuenow="Math.round(cut * 100)" aria-valuemin="0" aria-valuemax="100"
               :aria-valuetext="Math.round(cut * 100) + ' % default'" @keydown="step"></div>
          <span class="lab-tag left">default</span><span class="lab-tag right">now</span>
        </template>
      </div>
      <div v-else class="lab-empty"><slot></slot></div>
    </div>`,
  props: {
    src: String,
    before: String,
    outline: String,
    width: Number,
    height: Number,
    compare: Boolean,
  },
  data: () => ({ shown: null, serial: 0, asked: 0, cut: 0.5, grabbed: false }),
  watch: {
    src: { handler: "load", immediate: true },
  },
  methods: {
    path(url) {
      return url && (window.path_prefix || "") + url;
    },
    async load(url) {
      const asked = ++this.asked;
      if (!url) {
        this.shown = null;
        return;
      }
      const picture = new Image();
      picture.src = this.path(url);
      try {
        await picture.decode();
      } catch {
        return; // It was replaced on the server meanwhile; the next one is under way.
      }
      if (asked >= this.serial) {
        this.serial = asked;
        this.shown = picture.src;
      }
    },
    grab(event) {
      if (!this.compare) return;
      this.grabbed = true;
      this.$refs.frame.setPointerCapture(event.pointerId);
      this.drag(event);
    },
    drag(event) {
      if (!this.grabbed) return;
      const box = this.$refs.frame.getBoundingClientRect();
      this.cut = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    },
    step(event) {
      const steps = { ArrowLeft: -0.02, ArrowRight: 0.02 };
      if (event.key in steps) this.cut = Math.min(Math.max(this.cut + steps[event.key], 0), 1);
    },
  },
};
