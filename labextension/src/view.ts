// The view of one session: header, failure, ranks, logs, stacks. The cell and the panel hold the same one.

import { html, nothing, render, type TemplateResult } from 'lit-html';
import { repeat } from 'lit-html/directives/repeat.js';

import type { Api, LogLine, Stacks } from './api';
import * as format from './format';
import { icon } from './icons';
import { ManyRanks } from './many';
import type { Snapshot } from './protocol';
import { columnsOf, rankRow, titles } from './rows';
import { lookOfRun, lookOfSession } from './states';
import type { Known, Link } from './store';

/** From more ranks than this on a grid comes first, and a list in place of the rows. */
export const MANY = 32;
const LOG_MS = 500;
const SHOWN_LINES = 500;

export interface Translate {
  __(text: string, ...values: unknown[]): string;
}

/** What the view is drawn from. `fixed` is a snapshot that no server stands behind: buttons are off. */
export interface Content {
  known: Known | null;
  link: Link;
  heard: number;
  fixed: boolean;
}

interface OpenLog {
  rank: number | null;
  lines: LogLine[];
  after: number;
  total: number;
  follow: boolean;
  query: string;
}

/** Draws itself into `host`, at most when it is told to; `panel` leaves the name to the panel. */
export class SessionView {
  private _content: Content = { known: null, link: 'connecting', heard: 0, fixed: false };
  private _open: OpenLog | null = null;
  private _focused = 0;
  private _asking = false;
  private _stacks: Stacks | null = null;
  private _said = '';
  private _run = '';
  private _many = new ManyRanks(() => this._draw());
  private _timers: number[] = [];

  constructor(
    readonly host: HTMLElement,
    private readonly _api: Api | null,
    private readonly _trans: Translate,
    private readonly _panel = false
  ) {
    host.addEventListener('keydown', event => this._key(event));
    this._timers.push(window.setInterval(() => this._draw(), 1000));
    this._timers.push(window.setInterval(() => void this._fetch(), LOG_MS));
  }

  update(content: Content): void {
    const run = content.known?.shot.run ?? '';
    if (run !== this._run) {
      this._run = run;
      this._stacks = null;
      this._asking = false;
      if (this._open) {
        this._open = { ...this._open, lines: [], after: 0, total: 0 };
      }
    }
    this._content = content;
    this._draw();
  }

  dispose(): void {
    this._timers.forEach(timer => window.clearInterval(timer));
    render(nothing, this.host);
  }

  /** Whether anybody can see it: what nobody sees is not painted. */
  private get _visible(): boolean {
    return !document.hidden && this.host.isConnected && this.host.getClientRects().length > 0;
  }

  private _draw(): void {
    if (this._visible || !this.host.hasChildNodes()) {
      render(this._template(), this.host);
      this._many.paint(this.host);
      const lines = this.host.querySelector<HTMLElement>('.lines');
      if (lines && this._open?.follow) {
        lines.scrollTop = lines.scrollHeight;
      }
    }
  }

  private _template(): TemplateResult {
    const { known, link, heard, fixed } = this._content;
    const __ = (text: string, ...values: unknown[]) => this._trans.__(text, ...values);
    if (!known) {
      return html`<div class="hd"><span class="dim">${__('Connecting')}</span></div>`;
    }
    const { shot } = known;
    const running = shot.run_state === 'running';
    const now = running && !fixed ? shot.now + (performance.now() - known.at) / 1000 : shot.now;
    const lost = link === 'reconnecting' && !fixed;
    return html`${this._header(shot, now)}
      ${this._total(shot)}
      ${lost
        ? html`<div class="note" role="status">
            ${__('Reconnecting, last news %1 ago', format.duration((performance.now() - heard) / 1000))}
          </div>`
        : nothing}
      ${this._said ? html`<div class="note" role="status">${this._said}</div>` : nothing} ${this._failure(shot)} ${this._stall(shot)}
      <div class=${lost ? 'stale' : ''}>
        ${shot.ranks.length > MANY ? this._many.template(shot, now) : this._rows(shot, now)}
        ${shot.ranks.length > MANY && this._open ? this._log(this._open) : nothing}
      </div>
      ${this._stacks ? this._tree(this._stacks) : nothing}
      ${fixed && (running || shot.run_state === 'queued')
        ? html`<div class="note">
            ${__('This is what the notebook saw last. The Jupyter server knows no such run.')}
          </div>`
        : nothing}`;
  }

  private _header(shot: Snapshot, now: number): TemplateResult {
    const __ = (text: string, ...values: unknown[]) => this._trans.__(text, ...values);
    const look = this._panel ? lookOfSession(shot) : lookOfRun(shot);
    const running = shot.run_state === 'running';
    const going = shot.ranks.filter(row => row.state === 'running').length;
    const fact = (name: string, told: string) => html`<span class="fact"><span class="dim">${name}</span> ${told}</span>`;
    const off = this._content.fixed || !this._api;
    return html`<header class="hd">
      <span class="st">${icon(look.icon, look.tone)}<span class="name">${shot.session}</span><span>${look.word}</span></span>
      <span class="facts">
        ${running ? html`<span class="fact">${__('%1 of %2 ranks running', format.count(going), format.count(shot.ranks.length))}</span>` : nothing}
        ${running ? fact(__('elapsed'), format.age(now - shot.began, false)) : nothing}
        ${!running && shot.seconds !== null ? fact(__('ran'), format.duration(shot.seconds)) : nothing}
        ${running ? fact(__('left'), format.duration(shot.left)) : nothing}
      </span>
      ${this._asking
        ? html`<span class="acts" role="alertdialog" aria-label=${__('Stop the session?')}
            ><span>${__('Stop? Variables on %1 ranks are lost.', format.count(shot.ranks.length))}</span>
            <button class="btn" @click=${() => this._stop(shot)}>${icon('stop', 'bad')}${__('Stop')}</button>
            <button class="btn" @click=${() => this._ask(false)}>${__('Keep')}</button></span
          >`
        : html`<span class="acts"
            ><button class="btn" ?disabled=${off || !running} @click=${() => this._act(shot, 'interrupt')}>
              ${icon('intr')}${__('Interrupt')}</button
            ><button class="btn" ?disabled=${off} aria-pressed=${this._stacks ? 'true' : 'false'} @click=${() => this._takeStacks(shot)}>
              ${icon('stack')}${__('Stacks')}</button
            ><button class="btn" ?disabled=${off} @click=${() => this._ask(true)}>
              ${icon('stop', 'bad')}${__('Stop')}
            </button></span
          >`}
    </header>`;
  }

  private _total(shot: Snapshot): TemplateResult {
    const known = shot.ranks.map(row => row.fraction).filter(fraction => fraction !== null);
    const percent = known.length ? Math.round(Math.min(...known) * 1000) / 10 : 0;
    return html`<div
      class="total ${shot.run_state === 'failed' ? 'bad-t' : ''}"
      role="progressbar"
      aria-label=${this._trans.__('slowest rank')}
      aria-valuemin="0"
      aria-valuemax="100"
      aria-valuenow=${percent}
    >
      <i style="width:${percent}%"></i>
    </div>`;
  }

  private _failure(shot: Snapshot): TemplateResult | typeof nothing {
    if (!shot.failure) {
      return nothing;
    }
    const { title, text, others, advice, rank } = shot.failure;
    const __ = (text: string, ...values: unknown[]) => this._trans.__(text, ...values);
    return html`<section class="alert" role="alert">
      <h3>${icon('fail')}<span>${plain(title)}</span></h3>
      ${text ? html`<div class="tb" tabindex="0" role="region" aria-label=${__('traceback')}>${plain(text)}</div>` : nothing}
      ${others ? html`<p>${plain(others)}</p>` : nothing}
      ${advice ? html`<p><b>${__('Next:')}</b> ${advice}</p>` : nothing}
      ${rank >= 0 && this._api && !this._content.fixed
        ? html`<p><button class="btn" @click=${() => this._toggle(rank, true)}>${icon('list')}${__('Log of rank %1', rank)}</button></p>`
        : nothing}
    </section>`;
  }

  private _stall(shot: Snapshot): TemplateResult | typeof nothing {
    if (!shot.stall) {
      return nothing;
    }
    const kept = this._trans.__('Interrupt keeps the variables on all ranks.');
    return html`<section class="alert warn" role="status">
      <h3>${icon('late')}<span>${shot.stall.slice(0, 1).toUpperCase()}${shot.stall.slice(1)}.</span></h3>
      <p>${kept}</p>
    </section>`;
  }

  private _rows(shot: Snapshot, now: number): TemplateResult {
    const columns = columnsOf(shot);
    const width = shot.ranks.length >= 1000 ? 48 : shot.ranks.length > 10 ? 18 : 12;
    this._focused = Math.min(this._focused, shot.ranks.length - 1);
    return html`<div
      class="rows ${[columns.steps ? '' : 'plain', columns.metric === null ? '' : 'loss', columns.cpu ? 'cpu' : '', columns.gpu ? 'gpu' : '', columns.memory ? 'mem' : ''].join(' ')}"
      style="--mm-rank-width:${width}px"
      role="treegrid"
      aria-label=${this._trans.__('ranks')}
    >
      ${titles(columns)}
      ${repeat(
        shot.ranks,
        row => row.rank,
        row =>
          html`${rankRow(row, columns, now, this._open?.rank === row.rank, row.rank === this._focused, rank => this._toggle(rank))}
          ${this._open?.rank === row.rank ? this._log(this._open) : nothing}`
      )}
    </div>`;
  }

  private _log(log: OpenLog): TemplateResult {
    const __ = (text: string, ...values: unknown[]) => this._trans.__(text, ...values);
    const row = this._content.known?.shot.ranks[log.rank ?? -1];
    const found = log.query ? log.lines.filter(line => line[4].toLowerCase().includes(log.query.toLowerCase())) : log.lines;
    const facts = row
      ? [
          __('node %1', row.node),
          row.pid ? `pid ${row.pid}` : '',
          row.line ? `${__('cell line %1', row.line)}${row.function ? ` ${__('in %1', plain(row.function))}` : ''}` : '',
          row.cpu === null ? '' : `CPU ${format.percent(row.cpu)}`,
          row.memory === null ? '' : __('memory %1', format.size(row.memory)),
          row.gpu === null ? '' : `GPU ${format.percent(row.gpu)}`
        ]
      : [];
    return html`<section class="log ${this._panel ? 'tall' : ''}" aria-label=${log.rank === null ? __('log of all ranks') : __('log of rank %1', log.rank)}>
      <header>
        <span>${facts.filter(Boolean).join(' · ') || __('All ranks')}</span>
        <span class="push">${__('%1 lines', format.count(log.total))}</span>
        <input
          class="inp"
          type="search"
          placeholder=${__('Search')}
          aria-label=${__('Search the log')}
          .value=${log.query}
          @input=${(event: InputEvent) => this._change({ query: (event.target as HTMLInputElement).value })}
        />
        <button class="btn flat" aria-pressed=${log.follow ? 'true' : 'false'} @click=${() => this._change({ follow: !log.follow })}>
          ${icon(log.follow ? 'check' : 'tail')}${__('Follow')}
        </button>
        <button class="btn flat" aria-pressed=${log.rank === null ? 'true' : 'false'} @click=${() => this._all()}>${icon('list')}${__('All ranks')}</button>
      </header>
      <div
        class="lines"
        role="log"
        aria-live="off"
        tabindex="0"
        @wheel=${(event: WheelEvent) => event.deltaY < 0 && log.follow && this._change({ follow: false })}
      >
        ${found.length
          ? found.slice(-SHOWN_LINES).map(line => this._line(line, log))
          : html`<span class="dim">${__('No line yet.')}</span>`}
      </div>
    </section>`;
  }

  private _line([, at, rank, stream, text]: LogLine, log: OpenLog): TemplateResult {
    const minutes = Math.floor(at / 60);
    const time = `${minutes}:${(at - minutes * 60).toFixed(3).padStart(6, '0')}`;
    const who = log.rank === null ? html`<b style="color:var(--mm-r${rank % 4})">${rank}</b> ` : nothing;
    return html`<span class="ll ${stream === 'stderr' ? 'stderr' : ''}"><span class="t">${time}  </span>${who}${marked(plain(text), log.query)}</span>`;
  }

  private _tree(stacks: Stacks): TemplateResult {
    const groups = new Map<string, { ranks: string[]; lines: string[] }>();
    for (const [rank, stack] of Object.entries(stacks)) {
      const lines = [...stack.frames].reverse().map(frame => `${frame.where === 'cell' ? this._trans.__('cell line %1', frame.line) : `${frame.where.split('/').slice(-2).join('/')}:${frame.line}`}  ${frame.function}`);
      const key = lines.join('\n');
      const group = groups.get(key) ?? { ranks: [], lines };
      group.ranks.push(rank);
      groups.set(key, group);
    }
    return html`<section class="tree" aria-label=${this._trans.__('stacks')}>
      <h4>${this._trans.__('Stacks of %1 ranks, merged', Object.keys(stacks).length)}</h4>
      ${[...groups.values()].map(group =>
        group.lines.length
          ? group.lines.map((line, index) => html`<div class="fr"><span class="el">${index ? '' : group.ranks.join(', ')}</span><span class="code">${'  '.repeat(index)}${line}</span></div>`)
          : html`<div class="fr"><span class="el">${group.ranks.join(', ')}</span><span class="dim">${this._trans.__('between cells')}</span></div>`
      )}
    </section>`;
  }

  // what is pressed

  private _ask(asking: boolean): void {
    this._asking = asking;
    this._draw();
  }

  private _stop(shot: Snapshot): void {
    this._asking = false;
    void this._act(shot, 'stop');
  }

  private async _act(shot: Snapshot, action: 'interrupt' | 'stop'): Promise<void> {
    this._said = action === 'stop' ? this._trans.__('Stopping') : this._trans.__('Interrupting');
    this._draw();
    try {
      await this._api?.act(shot.session, action);
      this._said = '';
    } catch (error) {
      this._said = String(error instanceof Error ? error.message : error);
    }
    this._draw();
  }

  private async _takeStacks(shot: Snapshot): Promise<void> {
    if (this._stacks) {
      this._stacks = null;
    } else if (this._api) {
      try {
        this._stacks = await this._api.stacks(shot.session);
      } catch (error) {
        this._said = String(error instanceof Error ? error.message : error);
      }
    }
    this._draw();
  }

  private _toggle(rank: number, open = this._open?.rank !== rank): void {
    this._focused = rank;
    this._open = open ? { rank, lines: [], after: 0, total: 0, follow: true, query: '' } : null;
    this._draw();
    void this._fetch();
  }

  private _all(): void {
    if (this._open) {
      this._open = { ...this._open, rank: this._open.rank === null ? this._focused : null, lines: [], after: 0 };
      void this._fetch();
    }
  }

  private _change(change: Partial<OpenLog>): void {
    if (this._open) {
      this._open = { ...this._open, ...change };
      this._draw();
    }
  }

  private async _fetch(): Promise<void> {
    const log = this._open;
    const shot = this._content.known?.shot;
    if (!log || !shot || !this._api || this._content.fixed || !this._visible) {
      return;
    }
    try {
      const answer = await this._api.log(shot.session, log.rank, log.after);
      if (this._open && this._open.rank === log.rank && this._open.after === log.after) {
        const last = answer.lines[answer.lines.length - 1];
        const lines = [...log.lines, ...answer.lines].slice(-5000);
        this._open = { ...this._open, lines, after: last ? last[0] : log.after, total: answer.total };
        if (answer.lines.length) {
          this._draw();
        }
      }
    } catch {
      // the stream says that the server is away
    }
  }

  private _key(event: KeyboardEvent): void {
    const row = (event.target as HTMLElement).closest<HTMLElement>('.row');
    if (!row || event.target !== row) {
      return;
    }
    const rank = Number(row.dataset['rank']);
    const open = this._open?.rank === rank;
    const last = (this._content.known?.shot.ranks.length ?? 1) - 1;
    const to = { ArrowDown: Math.min(last, rank + 1), ArrowUp: Math.max(0, rank - 1), Home: 0, End: last }[event.key];
    if (to !== undefined) {
      this._focused = to;
      this._draw();
      this.host.querySelector<HTMLElement>(`.row[data-rank="${to}"]`)?.focus();
    } else if (event.key === 'Enter' || event.key === ' ' || (event.key === 'ArrowRight' && !open) || (event.key === 'ArrowLeft' && open)) {
      this._toggle(rank);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
}

// Colours and other control sequences of a terminal; what is left of them would only be noise.
const CONTROL = /\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.?)|[\x00-\x08\x0b-\x1f\x7f-\x9f]/g;

/** A line without control characters. */
export function plain(text: string): string {
  return text.replace(CONTROL, '');
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
