// The head of a view: which session, how it stands, and what can be done with it.

import { html, nothing, type TemplateResult } from 'lit-html';

import type { Action } from './api';
import * as format from './format';
import { icon } from './icons';
import type { Snapshot } from './protocol';
import { lookOfRun } from './states';
import type { Say } from './translate';

/** What loses variables is asked about once, in place. */
export type Question = 'stop' | 'restart';

export interface HeaderState {
  /** In the panel, which lists sessions with their states above. */
  panel: boolean;
  /** Nothing can be done: no server stands behind the view. */
  off: boolean;
  asking: Question | null;
  stacks: boolean;
}

export interface HeaderActions {
  act(action: Action): void;
  ask(question: Question | null): void;
  stacks(): void;
}

export function header(shot: Snapshot, now: number, state: HeaderState, actions: HeaderActions, say: Say): TemplateResult {
  const look = lookOfRun(shot);
  const running = shot.run_state === 'running';
  const fact = (name: string, told: string) => html`<span class="fact"><span class="dim">${name}</span> ${told}</span>`;
  return html`<header class="hd">
    ${state.panel
      ? html`<span class="name">${shot.session}</span>`
      : html`<span class="st">${icon(look.icon, look.tone)}<span class="name">${shot.session}</span><span>${told(shot, say)}</span></span>`}
    <span class="facts">
      ${running ? going(shot, say) : nothing} ${running ? fact(say('elapsed'), format.age(now - shot.began, false)) : nothing}
      ${!running && shot.seconds !== null ? fact(say('ran'), format.duration(shot.seconds)) : nothing}
      ${running ? fact(say('left'), format.duration(shot.ranks.some(row => row.awaited) ? null : shot.left)) : nothing}
    </span>
    ${state.asking ? question(shot, state.asking, actions, say) : buttons(running, state, actions, say)}
  </header>`;
}

function told(shot: Snapshot, say: Say): string {
  const look = lookOfRun(shot);
  return shot.failure && shot.failure.rank >= 0 ? say('%1 on rank %2', say(look.word), shot.failure.rank) : say(look.word);
}

/** How many ranks run, and how many wait or are waited for. */
function going(shot: Snapshot, say: Say): TemplateResult {
  const late = shot.ranks.filter(row => row.awaited).length;
  const waiting = shot.ranks.filter(row => row.waits_in).length;
  const active = shot.ranks.filter(row => row.state === 'running' && !row.waits_in).length;
  const words = [
    late > 1 ? say('%1 stragglers', format.count(late)) : late ? say('1 straggler') : '',
    waiting ? say('%1 waiting', format.count(waiting)) : ''
  ].filter(Boolean);
  return html`<span class="fact"
    >${say('%1 of %2 ranks running', format.count(active), format.count(shot.ranks.length))}${words.length
      ? html`, <b class=${late ? 'late' : ''}>${words.join(', ')}</b>`
      : nothing}</span
  >`;
}

function question(shot: Snapshot, asked: Question, actions: HeaderActions, say: Say): TemplateResult {
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

function buttons(running: boolean, state: HeaderState, actions: HeaderActions, say: Say): TemplateResult {
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
