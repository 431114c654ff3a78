// The images after each stage, in order, as parts of one picture; one of them can be shown large.
export default {
  template: `
    <div class="lab-strip" role="group" aria-label="the image after each stage">
      <button v-for="(stage, number) in stages" :key="stage" type="button" :class="{current: stage === current}"
              :aria-pressed="String(stage === current)" :title="'show the image after ' + stage" @click="$emit('show', stage)">
        <i :style="{backgroundImage: shown && 'url(' + shown + ')', backgroundSize: 100 * stages.length + '% 100%',
                    backgroundPositionX: stages.length > 1 ? (100 * number) / (stages.length - 1) + '%' : 0}"></i>
        <span>{{ stage }}</span>
      </button>
    </div>`,
  props: { src: String, stages: Array, current: String },
  data: () => ({ shown: null, asked: 0 }),
  watch: { src: { handler: "load", immediate: true } },
  methods: {
    async load(url) {
      if (!url) return;
      const asked = ++this.asked;
      // The large picture comes first, and images that will soon be replaced are not requested.
      await new Promise((resolve) => setTimeout(resolve, this.shown ? 150 : 0));
      if (asked !== this.asked) return;
      const picture = new Image();
      picture.src = (window.path_prefix || "") + url;
      try {
        await picture.decode();
        if (asked === this.asked) this.shown = picture.src;
      } catch {
        // A later one is loading.
      }
    },
  },
};
