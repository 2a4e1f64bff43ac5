// The buttons of a view, and the question before what loses variables.

import { html, nothing, type TemplateResult } from 'lit-html';

import type { Action } from './api';
import * as format from './format';
import { icon } from './icons';
import type { Snapshot } from './protocol';
import type { Say } from './translate';

/** What loses variables is asked about once, in place. */
export type Question = 'stop' | 'restart';

export interface ButtonState {
  /** In the panel, which lists sessions with their states above. */
  panel: boolean;
  /** Nothing can be done: no server stands behind the view. */
  off: boolean;
  asking: Question | null;
  /** The rank that is chosen, which can be started anew alone. */
  rank: number | null;
  stacks: boolean;
}

export interface ButtonActions {
  act(action: Action, rank: number | null): void;
  ask(question: Question | null): void;
  stacks(): void;
}

/** The buttons, or the question in their place. `more` stands before the last. */
export function buttons(
  shot: Snapshot,
  state: ButtonState,
  actions: ButtonActions,
  say: Say,
  more: TemplateResult | typeof nothing = nothing
): TemplateResult {
  if (state.asking) {
    const text = say('Stop? Variables on %1 ranks are lost.', format.count(shot.ranks.length));
    return question('stop', text, [[say('Stop'), null]], actions, say);
  }
  return html`<span class="acts"
    ><button class="btn" ?disabled=${state.off || shot.run_state !== 'running'} @click=${() => actions.act('interrupt', null)}>
      ${icon('intr')}${say('Interrupt')}</button
    ><button class="btn" ?disabled=${state.off} aria-pressed=${state.stacks ? 'true' : 'false'} @click=${() => actions.stacks()}>
      ${icon('stack')}${say('Stacks')}</button
    >${more}<button class="btn" data-asks="stop" ?disabled=${state.off} @click=${() => actions.ask('stop')}>
      ${icon('stop', 'bad')}${say('Stop')}
    </button></span
  >`;
}

/** What loses variables, of one rank or of all (null), and the way out. */
export function question(
  asked: Question,
  text: string,
  choices: readonly [string, number | null][],
  actions: ButtonActions,
  say: Say
): TemplateResult {
  return html`<span class="acts" role="alertdialog" aria-label=${text}
    ><span>${text}</span>
    ${choices.map(([word, rank]) => html`<button class="btn" @click=${() => actions.act(asked, rank)}>${icon(asked, 'bad')}${word}</button>`)}
    <button class="btn" @click=${() => actions.ask(null)}>${say('Keep')}</button></span
  >`;
}
