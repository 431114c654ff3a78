// Switches between light and dark; until it is pressed, the page follows the system.
export default {
  template: `
    <button type="button" class="lab-action" aria-label="dark" title="light or dark" :aria-pressed="String($q.dark.isActive)"
            @click="$q.dark.toggle()">◐</button>`,
};
