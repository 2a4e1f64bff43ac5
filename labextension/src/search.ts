// The log with a search, and as a section of the panel.

import { html, nothing, type TemplateResult } from 'lit-html';
import { guard } from 'lit-html/directives/guard.js';

import type { LogLine } from './api';
import * as format from './format';
import { CHECKED, icon, UNCHECKED } from './icons';
import { LogPane } from './log';
import type { Snapshot } from './protocol';

export class SearchedLog extends LogPane {
  private _query = '';
  private _offered = false;

  /** As a section of the panel. */
  section(shot: Snapshot, choose: (rank: number | null) => void): TemplateResult {
    const __ = this._say;
    const found = this._found();
    return html`<h2>
        ${__('Log')} <span class="dim">${__('%1 lines', format.count(this._total))}</span>
        <span class="acts"
          ><select
            class="inp flat"
            aria-label=${__('Log of')}
            @focus=${() => this._offer()}
            @pointerdown=${() => this._offer()}
            @change=${(event: Event) => {
              const { value } = event.target as HTMLSelectElement;
              choose(value === '' ? null : Number(value));
            }}
          >
            <option value="" ?selected=${this.rank === null}>${__('All ranks')}</option>
            ${guard([shot.ranks.length, this.rank, this._offered], () =>
              (this._offered ? shot.ranks : shot.ranks.filter(({ rank }) => rank === this.rank)).map(
                ({ rank }) => html`<option value=${rank} ?selected=${this.rank === rank}>${__('rank %1', rank)}</option>`
              )
            )}</select
          >${this._followButton()}</span
        >
      </h2>
      <section class="log bare" aria-label=${this._name()}>
        <div class="tools">
          ${this._search()}${this._query ? html`<span class="dim">${__('%1 of %2', format.count(found.length), format.count(this._lines.length))}</span>` : nothing}
        </div>
        ${this._text()}
      </section>`;
  }

  /** A thousand ranks are put into the list when somebody is about to open it. */
  private _offer(): void {
    if (!this._offered) {
      this._offered = true;
      this._draw();
    }
  }

  protected override _found(): LogLine[] {
    const query = this._query.toLowerCase();
    return query ? this._lines.filter(line => line[4].toLowerCase().includes(query)) : this._lines;
  }

  protected override _marked(text: string): unknown {
    return marked(text, this._query);
  }

  protected override _tools(): TemplateResult {
    return html`${this._search()} ${this._followButton()}`;
  }

  private _search(): TemplateResult {
    return html`<input
      class="inp find"
      type="search"
      placeholder=${this._say('Search')}
      aria-label=${this._say('Search the log')}
      .value=${this._query}
      @input=${(event: InputEvent) => {
        this._query = (event.target as HTMLInputElement).value;
        this._draw();
      }}
      @keydown=${(event: KeyboardEvent) => {
        if (event.key === 'Escape') {
          (event.target as HTMLInputElement).blur();
          this._query = '';
          this._draw();
        }
      }}
    />`;
  }

  private _followButton(): TemplateResult {
    return html`<button
      class="btn flat"
      aria-pressed=${this._follow ? 'true' : 'false'}
      @click=${() => {
        this._follow = !this._follow;
        this._draw();
      }}
    >
      ${icon(this._follow ? CHECKED : UNCHECKED)}${this._say('Follow')}
    </button>`;
  }
}

/** A text with what was searched for marked. */
function marked(text: string, query: string): (string | TemplateResult)[] {
  if (!query) {
    return [text];
  }
  const parts: (string | TemplateResult)[] = [];
  const lower = text.toLowerCase();
  let start = 0;
  for (let at = lower.indexOf(query.toLowerCase()); at >= 0; at = lower.indexOf(query.toLowerCase(), start)) {
    parts.push(text.slice(start, at), html`<mark>${text.slice(at, at + query.length)}</mark>`);
    start = at + query.length;
  }
  return [...parts, text.slice(start)];
}
