// The log of one rank or of all: the newest lines, with search and follow. It asks the server for what is new.

import { html, nothing, type TemplateResult } from 'lit-html';

import type { Api, LogLine } from './api';
import * as format from './format';
import { icon } from './icons';
import type { RankRow, Snapshot } from './protocol';
import { loopsOf, numbersOf } from './told';
import { plain, type Say } from './translate';

const SHOWN_LINES = 500;
const KEPT_LINES = 5000;

export class LogPane {
  open = false;
  /** Of this rank, or of all. */
  rank: number | null = null;
  private _lines: LogLine[] = [];
  private _after = 0;
  private _total = 0;
  private _follow = true;
  private _query = '';

  constructor(
    private readonly _api: Api,
    private readonly _say: Say,
    private readonly _draw: () => void
  ) {}

  /** Show the log of a rank, or of all. */
  show(rank: number | null): void {
    this.open = true;
    this.rank = rank;
    this.clear();
  }

  close(): void {
    this.open = false;
  }

  /** Forget the lines: they are of another run or rank. */
  clear(): void {
    [this._lines, this._after, this._total] = [[], 0, 0];
  }

  /** Take what is new. A server that is away is told of elsewhere. */
  async fetch(session: string): Promise<void> {
    if (!this.open) {
      return;
    }
    const { rank, _after: after } = this;
    const answer = await this._api.log(session, rank, after).catch(() => null);
    if (answer === null || this.rank !== rank || this._after !== after) {
      return;
    }
    const last = answer.lines[answer.lines.length - 1];
    const changed = answer.lines.length > 0 || answer.total !== this._total;
    this._lines = [...this._lines, ...answer.lines].slice(-KEPT_LINES);
    this._after = last ? last[0] : after;
    this._total = answer.total;
    if (changed) {
      this._draw();
    }
  }

  /** After each painting: the newest line stays in sight where it is followed. */
  settle(host: HTMLElement): void {
    const lines = this._follow ? host.querySelector<HTMLElement>('.log .lines') : null;
    if (lines) {
      lines.scrollTop = lines.scrollHeight;
    }
  }

  private _found(): LogLine[] {
    const query = this._query.toLowerCase();
    return query ? this._lines.filter(line => line[4].toLowerCase().includes(query)) : this._lines;
  }

  /** Below the row of a rank, or below the grid of many. */
  template(row: RankRow | undefined, all: () => void): TemplateResult {
    const __ = this._say;
    const facts = row
      ? [
          loopsOf(row),
          ...numbersOf(row.metrics),
          __('node %1', row.node),
          row.pid ? `pid ${row.pid}` : '',
          row.line ? __('cell line %1', row.line) : '',
          row.cpu === null ? '' : `CPU ${format.percent(row.cpu)}`,
          row.memory === null ? '' : __('memory %1', format.size(row.memory)),
          row.gpu === null ? '' : `GPU ${format.percent(row.gpu)}`
        ].filter(Boolean)
      : [];
    return html`<section class="log" aria-label=${this._name()}>
      <header>
        <span class="el">${facts.join(' · ') || __('All ranks')}</span>
        ${row?.function ? html`<span class="code el">${plain(row.function)}</span>` : nothing}
        <span class="push">${__('%1 lines', format.count(this._total))}</span>
        ${this._search()} ${this._followButton()}
        <button class="btn flat" aria-pressed=${this.rank === null ? 'true' : 'false'} @click=${all}>
          ${icon('list')}${__('All ranks')}
        </button>
      </header>
      ${this._text()}
    </section>`;
  }

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
            @change=${(event: Event) => {
              const { value } = event.target as HTMLSelectElement;
              choose(value === '' ? null : Number(value));
            }}
          >
            <option value="" ?selected=${this.rank === null}>${__('All ranks')}</option>
            ${shot.ranks.map(
              ({ rank }) => html`<option value=${rank} ?selected=${this.rank === rank}>${__('rank %1', rank)}</option>`
            )}</select
          >${this._followButton()}</span
        >
      </h2>
      <section class="log bare" aria-label=${this._name()}>
        <div class="tools">
          ${this._search()}<span class="dim">${this._query ? __('%1 of %2', format.count(found.length), format.count(this._lines.length)) : ''}</span>
        </div>
        ${this._text()}
      </section>`;
  }

  private _name(): string {
    return this.rank === null ? this._say('log of all ranks') : this._say('log of rank %1', this.rank);
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
      ${icon(this._follow ? 'check' : 'box')}${this._say('Follow')}
    </button>`;
  }

  private _text(): TemplateResult {
    const found = this._found();
    return html`<div
      class="lines"
      role="log"
      aria-live="off"
      tabindex="0"
      aria-label=${this._say('lines')}
      @wheel=${(event: WheelEvent) => {
        if (event.deltaY < 0 && this._follow) {
          this._follow = false;
          this._draw();
        }
      }}
    >
      ${found.length
        ? found.slice(-SHOWN_LINES).map(line => this._line(line))
        : html`<span class="dim">${this._say('No line yet.')}</span>`}
    </div>`;
  }

  private _line([, at, rank, stream, text]: LogLine): TemplateResult {
    const minutes = Math.floor(at / 60);
    const time = `${minutes}:${(at - minutes * 60).toFixed(3).padStart(6, '0')}`;
    const who = this.rank === null ? html`<b style="color:var(--mm-r${rank % 4})">${rank}</b> ` : nothing;
    return html`<span class="ll ${stream === 'stderr' ? 'stderr' : ''}"
      ><span class="t">${time}  </span>${who}${marked(plain(text), this._query)}</span
    >`;
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
