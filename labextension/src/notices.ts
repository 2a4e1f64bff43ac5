// What needs a person, above the rows: why a run failed, and whom the others wait for.

import { html, nothing, type TemplateResult } from 'lit-html';

import { icon } from './icons';
import type { Failure, Snapshot } from './protocol';
import { plain, type Say } from './translate';

/** A part of a traceback: frames of libraries are folded into one line. */
export interface Excerpt {
  text: string;
  folded: number;
  library: string;
}

const FRAME = /^(Cell |File )/;
const LIBRARY = /(?:site|dist)-packages\/([^/:]+(?:\/[^/:]+)?)|\/lib\/python[\d.]+\/(?!site|dist)([^/:]+)/;

/** A traceback with runs of library frames apart from the rest. */
export function excerpts(text: string): Excerpt[] {
  const parts: Excerpt[] = [];
  for (const line of text.split('\n')) {
    const last = parts[parts.length - 1];
    if (FRAME.test(line)) {
      const found = LIBRARY.exec(line);
      const library = found ? (found[1] ?? found[2] ?? '').replace(/\.py$/, '') : '';
      if (last && library && last.library) {
        last.text += `\n${line}`;
        last.folded++;
      } else {
        parts.push({ text: line, folded: library ? 1 : 0, library });
      }
    } else if (last && last.library && /^\w/.test(line)) {
      parts.push({ text: line, folded: 0, library: '' }); // the exception itself
    } else if (last) {
      last.text += `\n${line}`;
    } else {
      parts.push({ text: line, folded: 0, library: '' });
    }
  }
  return parts;
}

/** The traceback: the line where it happened stands out, and so does the exception. */
function traceback(text: string, say: Say): TemplateResult {
  const shown = plain(text).replace(/^-{20,}\n.*Traceback \(most recent call last\)\n/, '').trim();
  return html`<div class="tb" tabindex="0" role="region" aria-label=${say('traceback')}
    >${excerpts(shown).map(part =>
      part.library
        ? html`<details><summary>${part.folded === 1 ? say('1 frame in %1', part.library) : say('%1 frames in %2', part.folded, part.library)}</summary>${part.text.trimEnd()}</details>`
        : html`<div>${part.text.trimEnd().split('\n').map(line => html`<span class="ll ${/^(-+> ?\d|[\w.]*(Error|Exception|Exit|Warning|Interrupt)\b)/.test(line) ? 'key' : ''}">${line || ' '}</span>`)}</div>`
    )}</div
  >`;
}

/** Why a run failed. `log` opens the log of the rank; null where there is none to be had. */
export function failureNotice(failure: Failure | null, say: Say, log: ((rank: number) => void) | null): TemplateResult | typeof nothing {
  if (!failure) {
    return nothing;
  }
  const { title, text, others, advice, rank } = failure;
  return html`<section class="alert" role="alert">
    <div class="what">${icon('fail')}<span>${plain(title)}</span></div>
    ${text ? traceback(text, say) : nothing} ${others ? html`<p>${plain(others)}</p>` : nothing}
    ${advice ? html`<p><b>${say('Next:')}</b> ${advice}</p>` : nothing}
    <div class="acts2">
      ${rank >= 0 && log
        ? html`<button class="btn" @click=${() => log(rank)}>${icon('list')}${say('Log of rank %1', rank)}</button>`
        : nothing}
      ${text
        ? html`<button class="btn" @click=${() => void navigator.clipboard?.writeText(plain(text))}>
            ${icon('copy')}${say('Copy error')}
          </button>`
        : nothing}
    </div>
  </section>`;
}

/** Whom the others wait for. */
export function stallNotice(shot: Snapshot, say: Say): TemplateResult | typeof nothing {
  if (!shot.stall) {
    return nothing;
  }
  return html`<section class="alert warn" role="status">
    <div class="what">${icon('late')}<span>${shot.stall.slice(0, 1).toUpperCase()}${shot.stall.slice(1)}.</span></div>
    <p>${say('Interrupt ends the wait. Ranks that can be interrupted keep their variables.')}</p>
  </section>`;
}
