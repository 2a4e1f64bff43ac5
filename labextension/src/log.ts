// The log of one rank or of all: the newest lines, which are followed. It asks for what is new.

import { html, nothing, type TemplateResult } from 'lit-html';

import type { Asks, LogLine } from './api';
import * as format from './format';
import { icon } from './icons';
import type { RankRow } from './protocol';
import { loopsOf, numbersOf } from './told';
import { plain, type Say } from './translate';

const SHOWN_LINES = 500;
const KEPT_LINES = 5000;

export class LogPane {
  open = false;
  /** Of this rank, or of all. */
  rank: number | null = null;
  protected _lines: LogLine[] = [];
  protected _total = 0;
  private _after = 0;
  protected _follow = true;
  private _top = 0;

  constructor(
    private readonly _api: Asks,
    protected readonly _say: Say,
    protected readonly _draw: () => void
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

  /** The lines that are to be shown. */
  protected _found(): LogLine[] {
    return this._lines;
  }

  /** What the log is searched with and held by; here nothing does that but the wheel. */
  protected _tools(): TemplateResult | typeof nothing {
    return nothing;
  }

  protected _marked(text: string): unknown {
    return text;
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
        ${this._tools()}
        <button class="btn flat" aria-pressed=${this.rank === null ? 'true' : 'false'} @click=${all}>
          ${icon('list')}${__('All ranks')}
        </button>
      </header>
      ${this._text()}
    </section>`;
  }

  protected _name(): string {
    return this.rank === null ? this._say('log of all ranks') : this._say('log of rank %1', this.rank);
  }

  protected _text(): TemplateResult {
    const found = this._found();
    return html`<div
      class="lines"
      role="log"
      aria-live="off"
      tabindex="0"
      aria-label=${this._say('lines')}
      @scroll=${(event: Event) => this._scrolled(event.currentTarget as HTMLElement)}
    >
      ${found.length
        ? found.slice(-SHOWN_LINES).map(line => this._line(line))
        : html`<span class="dim">${this._say('No line yet.')}</span>`}
    </div>`;
  }

  /** By wheel, bar or key: who goes up wants to read, who goes to the end to follow. */
  private _scrolled({ scrollHeight, scrollTop, clientHeight }: HTMLElement): void {
    const atEnd = scrollHeight - scrollTop - clientHeight < 24;
    const follow = scrollTop < this._top ? this._follow && atEnd : this._follow || (atEnd && scrollTop > this._top);
    this._top = scrollTop;
    if (follow !== this._follow) {
      this._follow = follow;
      this._draw();
    }
  }

  private _line([, at, rank, stream, text]: LogLine): TemplateResult {
    const minutes = Math.floor((at ?? 0) / 60);
    const time = at === null ? nothing : html`<span class="t">${minutes}:${(at - minutes * 60).toFixed(3).padStart(6, '0')}  </span>`;
    const who = this.rank === null ? html`<b style="color:var(--mm-r${rank % 4})">${rank}</b> ` : nothing;
    return html`<span class="ll ${stream === 'stderr' ? 'stderr' : ''}"
      >${time}${who}${this._marked(plain(text))}</span
    >`;
  }
}
