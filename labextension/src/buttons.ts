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
  stacks: boolean;
}

export interface ButtonActions {
  act(action: Action): void;
  ask(question: Question | null): void;
  stacks(): void;
}

/** The buttons, or the question in their place. */
export function buttons(shot: Snapshot, state: ButtonState, actions: ButtonActions, say: Say): TemplateResult {
  return state.asking ? question(shot, state.asking, actions, say) : pressable(shot.run_state === 'running', state, actions, say);
}

function question(shot: Snapshot, asked: Question, actions: ButtonActions, say: Say): TemplateResult {
  const ranks = format.count(shot.ranks.length);
  const [text, word] =
    asked === 'stop'
      ? [say('Stop? Variables on %1 ranks are lost.', ranks), say('Stop')]
      : [say('Restart? Variables on %1 ranks are lost.', ranks), say('Restart')];
  return html`<span class="acts" role="alertdialog" aria-label=${text}
    ><span>${text}</span>
    <button class="btn" @click=${() => actions.act(asked)}>${icon(asked, 'bad')}${word}</button>
    <button class="btn" @click=${() => actions.ask(null)}>${say('Keep')}</button></span
  >`;
}

function pressable(running: boolean, state: ButtonState, actions: ButtonActions, say: Say): TemplateResult {
  return html`<span class="acts"
    ><button class="btn" ?disabled=${state.off || !running} @click=${() => actions.act('interrupt')}>
      ${icon('intr')}${say('Interrupt')}</button
    ><button class="btn" ?disabled=${state.off} aria-pressed=${state.stacks ? 'true' : 'false'} @click=${() => actions.stacks()}>
      ${icon('stack')}${say('Stacks')}</button
    >${state.panel
      ? html`<button
          class="btn"
          aria-label=${say('Restart')}
          title=${say('Restart')}
          ?disabled=${state.off}
          @click=${() => actions.ask('restart')}
        >
          ${icon('restart')}<span class="wide">${say('Restart')}</span>
        </button>`
      : nothing}<button class="btn" ?disabled=${state.off} @click=${() => actions.ask('stop')}>
      ${icon('stop', 'bad')}${say('Stop')}
    </button></span
  >`;
}
