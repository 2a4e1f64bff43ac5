// Starting ranks anew, which only the panel offers: all of them, or the one that is chosen.

import { html, nothing, type TemplateResult } from 'lit-html';

import { buttons, question, type ButtonActions, type ButtonState } from './buttons';
import * as format from './format';
import { icon } from './icons';
import type { Snapshot } from './protocol';
import type { Say } from './translate';

/** The buttons of a view beside a server, or the question in their place. */
export function buttonsWithRestart(shot: Snapshot, state: ButtonState, actions: ButtonActions, say: Say): TemplateResult {
  const { rank } = state;
  const count = shot.ranks.length;
  if (state.asking === 'restart') {
    const choices: [string, number | null][] = [[say('Restart'), null]];
    if (rank !== null && count > 1) {
      choices.push([say('Only rank %1', rank), rank]);
    }
    return question('restart', say('Restart? Variables on %1 ranks are lost.', format.count(count)), choices, actions, say);
  }
  const restart = html`<button
    class="btn"
    data-asks="restart"
    aria-label=${say('Restart')}
    title=${rank === null ? say('Restart') : say('Restart all ranks, or rank %1', rank)}
    ?disabled=${state.off}
    @click=${() => actions.ask('restart')}
  >
    ${icon('restart')}<span class="wide">${say('Restart')}</span>
  </button>`;
  return buttons(shot, state, actions, say, state.panel ? restart : nothing);
}

/** What is said when ranks are there again. */
export function restarted(shot: Snapshot, rank: number | null, say: Say): string {
  return rank === null
    ? say('Restarted: %1 fresh ranks, without variables.', format.count(shot.ranks.length))
    : say('Restarted: rank %1 is fresh, without variables.', rank);
}
