// The head of a view: which session, and how it stands.

import { html, nothing, type TemplateResult } from 'lit-html';

import * as format from './format';
import { icon } from './icons';
import type { Cost, Snapshot } from './protocol';
import { lookOfRun } from './states';
import type { Say } from './translate';

/** `panel` leaves the state of the session to the list above; `buttons` is what can be pressed. */
export function head(shot: Snapshot, now: number, panel: boolean, buttons: TemplateResult | typeof nothing, say: Say): TemplateResult {
  const look = lookOfRun(shot);
  const running = shot.run_state === 'running';
  const fact = (name: string, told: string) => html`<span class="fact"><span class="dim">${name}</span> ${told}</span>`;
  return html`<header class="hd">
    ${panel
      ? html`<span class="name">${shot.session}</span>`
      : html`<span class="st">${icon(look.icon, look.tone)}<span class="name">${shot.session}</span><span>${told(shot, say)}</span></span>`}
    <span class="facts">
      ${running ? going(shot, say) : nothing} ${running ? fact(say('elapsed'), format.age(now - shot.began, false)) : nothing}
      ${!running && shot.seconds !== null ? fact(say('ran'), format.duration(shot.seconds)) : nothing}
      ${running ? fact(say('left'), format.duration(shot.ranks.some(row => row.awaited) ? null : shot.left)) : nothing}
      ${shot.cost ? cost(shot.cost, say) : nothing}
    </span>
    ${buttons}
  </header>`;
}

function told(shot: Snapshot, say: Say): string {
  const look = lookOfRun(shot);
  return shot.failure && shot.failure.rank >= 0 ? say('%1 on rank %2', say(look.word), shot.failure.rank) : say(look.word);
}

/** What the session has cost, and costs an hour; the date of the prices is in its title. */
function cost({ spent, hourly, date, at_most: most }: Cost, say: Say): TemplateResult {
  const told = most ? say('at most %1', format.dollars(spent)) : format.dollars(spent);
  return html`<span class="fact" title=${say('prices of %1', date)}
    ><span class="dim">${say('cost')}</span> ${told} <span class="dim">${say('at %1/h', format.dollars(hourly))}</span></span
  >`;
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
