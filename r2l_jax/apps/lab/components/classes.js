// The probability of each class; the class that the loss is for can be chosen.
export default {
  template: `
    <div class="lab-classes" role="group" aria-label="probability of each class">
      <component :is="choosable ? 'button' : 'div'" v-for="(row, number) in rows" :key="row.name" class="lab-class"
                 :class="{target: row.target}" :type="choosable ? 'button' : null"
                 :aria-pressed="choosable ? String(!!row.target) : null" :title="choosable ? 'assume that ' + row.name + ' is the true class' : ''"
                 @click="choosable && $emit('choose', number)">
        <span class="lab-bar" :style="{width: 100 * row.share + '%'}"></span>
        <span class="lab-name">{{ row.name }}<em v-if="row.target">{{ row.target }}</em></span>
        <span class="lab-share">{{ row.text }}</span>
      </component>
    </div>`,
  props: { rows: Array, choosable: Boolean },
};
