// The view of one session: header, notices, ranks, stacks, start-up. The cell and the panel hold the same one.

import { html, nothing, render, type TemplateResult } from 'lit-html';

import type { Action, Asks, Stacks } from './api';
import * as format from './format';
import type { ButtonActions, ButtonState, Question } from './buttons';
import { head } from './head';
import type { LogPane } from './log';
import type { ManyRanks } from './many';
import { failureNotice, stallNotice } from './notices';
import { slowestFirst } from './order';
import type { Snapshot } from './protocol';
import { columnsOf, rankRow, titles, type Columns } from './rows';
import type { startUp } from './startup';
import { lookOf, lookOfRun } from './states';
import type { Known, Link } from './store';
import type { Say, Translate } from './translate';

/** From more ranks than this on a grid comes first, and a list in place of the rows. */
export const MANY = 32;
const LOG_MS = 500;
const SAY_MS = 5000;
/** Where the focus goes when something is asked: to what loses nothing, for a key that is held down presses again. */
export const QUESTION = '[role=alertdialog] button:last-of-type';

/** What the view is drawn from. `fixed` is a snapshot that no server stands behind: buttons are off. */
export interface Content {
  known: Known | null;
  link: Link;
  heard: number;
  fixed: boolean;
}

/** What a view has where it can ask. The widget, which travels with each notebook, is small without some of it. */
export interface Parts {
  log: LogPane;
  buttons(shot: Snapshot, state: ButtonState, actions: ButtonActions, say: Say): TemplateResult;
  /** What is said when ranks are there again. */
  restarted?(shot: Snapshot, rank: number | null, say: Say): string;
  stackTree(stacks: Stacks, taken: number, say: Say): TemplateResult;
  startUp?: typeof startUp;
  many?: ManyRanks;
  /** What the panel has below its rows. */
  below?(shot: Snapshot, rank: number | null, width: number, choose: (rank: number | null) => void): TemplateResult;
}

/** Draws itself into `host`, at most when it is told to; `panel` leaves the state to the panel's list. */
export class SessionView<A extends Asks = Asks> {
  private _content: Content = { known: null, link: 'connecting', heard: 0, fixed: false };
  protected _focused = 0;
  private _asking: Question | null = null;
  private _drawn: Question | null = null;
  private _stacks: Stacks | null = null;
  private _stacksAt = 0;
  private _said = '';
  private _announced = '';
  private _announcedAt = -Infinity;
  protected _startUp = false;
  private _run = '';
  private readonly _say: Say;
  protected readonly _log: LogPane | null;
  private readonly _parts: Parts | null;
  private _timers: number[] = [];

  constructor(
    readonly host: HTMLElement,
    private readonly _api: A | null,
    trans: Translate,
    makeParts: ((api: A, say: Say, draw: () => void, show: (rank: number) => void) => Parts) | null = null,
    private readonly _panel = false
  ) {
    this._say = (text, ...values) => trans.__(text, ...values);
    const draw = () => this._draw();
    this._parts = _api && makeParts ? makeParts(_api, this._say, draw, rank => this._show(rank)) : null;
    this._log = this._parts?.log ?? null;
    if (_panel) {
      this._log?.show(null);
    }
    host.addEventListener('keydown', event => this._key(event));
    this._timers.push(window.setInterval(() => this._draw(), 1000));
    this._timers.push(window.setInterval(() => this._fetch(), LOG_MS));
  }

  update(content: Content): void {
    const run = `${content.known?.shot.session ?? ''} ${content.known?.shot.run ?? ''}`;
    if (run !== this._run) {
      this._run = run;
      this._stacks = this._asking = null;
      this._said = '';
      this._log?.clear();
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
      const held = this.host.contains(document.activeElement) ? document.activeElement : null;
      const asked = this._drawn;
      this._drawn = this._asking;
      render(this._template(), this.host);
      this._parts?.many?.paint(this.host);
      this._log?.settle(this.host);
      if (held && (!held.isConnected || held.matches(':disabled'))) {
        // What had the focus is gone or off: it goes to what came in its place, else to the ranks.
        const place = this._asking ? QUESTION : asked ? `[data-asks=${asked}]` : '.row[tabindex="0"], .many canvas';
        this.host.querySelector<HTMLElement>(place)?.focus();
      }
    }
  }

  private _template(): TemplateResult {
    const { known, link, heard, fixed } = this._content;
    const __ = this._say;
    if (!known) {
      return html`<div class="hd"><span class="dim">${__('Connecting')}</span></div>`;
    }
    const { shot } = known;
    const running = shot.run_state === 'running';
    const now = running && !fixed ? shot.now + (performance.now() - known.at) / 1000 : shot.now;
    const lost = link === 'reconnecting' && !fixed;
    const note = (text: string) => html`<div class="note" role="status">${text}</div>`;
    const width = this.host.clientWidth;
    const parts = this._parts;
    const many = shot.ranks.length > MANY ? parts?.many : undefined;
    const rank = parts?.log.rank ?? null;
    const row = rank === null ? undefined : shot.ranks[rank];
    const pressed = { act: (action: Action, of: number | null) => void this._act(shot, action, of), ask: (question: Question | null) => this._ask(question), stacks: () => void this._takeStacks(shot) };
    const state = { panel: this._panel, off: fixed, asking: this._asking, rank, stacks: this._stacks !== null };
    return html`${head(shot, now, this._panel, parts ? parts.buttons(shot, state, pressed, __) : nothing, __)}
      ${this._total(shot)}
      ${lost ? note(__('Reconnecting, last news %1 ago', format.duration((performance.now() - heard) / 1000))) : nothing}
      ${this._said ? note(this._said) : nothing}
      ${failureNotice(shot.failure, __, this._api && !fixed ? rank => this._show(rank) : null)} ${stallNotice(shot, __)}
      <div class=${lost ? 'stale' : ''}>
        ${many ? many.template(shot, now, width) : this._rows(shot, now)}
        ${many && parts?.log.open && !this._panel ? parts.log.template(row, () => this._all()) : nothing}
      </div>
      ${this._stacks && parts ? parts.stackTree(this._stacks, (performance.now() - this._stacksAt) / 1000, __) : nothing}
      ${parts?.startUp ? parts.startUp(shot, now, this._startUp, () => this._toggleStartUp(), __) : nothing}
      ${this._panel && parts?.below ? parts.below(shot, rank, width, chosen => this._show(chosen)) : nothing}
      ${fixed && (running || shot.run_state === 'queued')
        ? note(__('This is what the notebook saw last. The Jupyter server knows no such run.'))
        : nothing}
      <div class="sr" role="status">${this._announce(shot)}</div>`;
  }

  private _total(shot: Snapshot): TemplateResult {
    const known = shot.ranks.map(row => row.fraction).filter(fraction => fraction !== null);
    const percent = known.length ? Math.round(Math.min(...known) * 1000) / 10 : 0;
    return html`<div
      class="total ${shot.run_state === 'failed' ? 'bad-t' : ''}"
      role="progressbar"
      aria-label=${this._say('slowest rank')}
      aria-valuemin="0"
      aria-valuemax="100"
      aria-valuenow=${percent}
    >
      <i style="width:${percent}%"></i>
    </div>`;
  }

  /** What a screen reader is told: how the run stands, as one sentence, at most once in five seconds. */
  private _announce(shot: Snapshot): string {
    const states = new Map<string, number>();
    shot.ranks.forEach(row => states.set(row.state, (states.get(row.state) ?? 0) + 1));
    const ranks = [...states].map(([state, count]) => `${count} ${this._say(lookOf(state).word)}`).join(', ');
    const told = `${shot.session}: ${this._say(lookOfRun(shot).word)}. ${this._say('Ranks: %1', ranks)}.`;
    if (told !== this._announced && performance.now() - this._announcedAt > SAY_MS) {
      [this._announced, this._announcedAt] = [told, performance.now()];
    }
    return this._announced;
  }

  private _rows(shot: Snapshot, now: number): TemplateResult {
    const shown = shot.ranks.length > MANY ? slowestFirst(shot.ranks).slice(0, MANY) : shot.ranks;
    const columns = columnsOf(shot);
    const width = shot.ranks.length >= 1000 ? 32 : shot.ranks.length > 10 ? 18 : 12;
    this._focused = Math.min(this._focused, shot.ranks.length - 1);
    const log = this._log?.open ? this._log : null;
    const open = log?.rank ?? null;
    return html`<div
      class=${classes(columns)}
      style="--mm-rank-width:${width}px"
      role="treegrid"
      aria-label=${this._say('ranks')}
    >
      ${titles(columns, this._say)}
      ${shown.map(
        row =>
          html`${rankRow(row, columns, now, open === row.rank, row.rank === this._focused, rank => this._toggle(rank), this._say)}
          ${log && open === row.rank && !this._panel
            ? html`<div role="row"><div role="gridcell">${log.template(row, () => this._all())}</div></div>`
            : nothing}`
      )}
      ${shown.length < shot.ranks.length
        ? html`<div role="row" class="note"><span role="gridcell">${this._say('%1 more ranks', format.count(shot.ranks.length - shown.length))}</span></div>`
        : nothing}
      ${log && open === null && !this._panel
        ? html`<div role="row"><div role="gridcell">${log.template(undefined, () => this._show(this._focused))}</div></div>`
        : nothing}
    </div>`;
  }

  // what is pressed

  protected _ask(question: Question | null): void {
    this._asking = question;
    this._draw();
  }

  private async _act(shot: Snapshot, action: Action, rank: number | null): Promise<void> {
    const __ = this._say;
    const run = this._run;
    this._asking = null;
    this._said = { stop: __('Stopping'), restart: __('Restarting'), interrupt: __('Interrupting') }[action];
    this._draw();
    try {
      const done = await this._api?.act(shot.session, action, rank);
      this._tell(run, done ? (this._parts?.restarted?.(shot, rank, __) ?? '') : '');
    } catch (error) {
      this._tell(run, String(error instanceof Error ? error.message : error));
    }
  }

  /** Say what came of something, unless the view shows another run by now. */
  private _tell(run: string, text: string): void {
    if (run === this._run) {
      this._said = text;
      this._draw();
    }
  }

  private async _takeStacks(shot: Snapshot): Promise<void> {
    if (this._stacks) {
      this._stacks = null;
    } else if (this._api) {
      try {
        this._stacks = await this._api.stacks(shot.session);
        this._stacksAt = performance.now();
      } catch (error) {
        this._said = String(error instanceof Error ? error.message : error);
      }
    }
    this._draw();
  }

  private _toggleStartUp(): void {
    this._startUp = !this._startUp;
    this._opened();
  }

  private _toggle(rank: number): void {
    this._focused = rank;
    if (this._log?.open && this._log.rank === rank) {
      if (this._panel) {
        this._log.show(null);
      } else {
        this._log.close();
      }
      this._opened();
    } else {
      this._show(rank);
    }
  }

  private _show(rank: number | null): void {
    this._focused = rank ?? this._focused;
    this._log?.show(rank);
    this._opened();
  }

  /** Something was opened or closed. */
  protected _opened(): void {
    this._draw();
    this._fetch();
  }

  private _all(): void {
    this._show(null);
  }

  private _fetch(): void {
    const shot = this._content.known?.shot;
    if (shot && !this._content.fixed && this._visible) {
      void this._log?.fetch(shot.session);
    }
  }

  private _key(event: KeyboardEvent): void {
    const row = (event.target as HTMLElement).closest<HTMLElement>('.row');
    if (event.key === 'Escape' && this._asking) {
      this._ask(null);
    }
    if (!row || event.target !== row) {
      return;
    }
    const rank = Number(row.dataset['rank']);
    const open = this._log?.open && this._log.rank === rank;
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

/** The columns that are there, for the style sheet: what nothing fills has no width. */
function classes(columns: Columns): string {
  const { steps, metric, cpu, gpu, memory } = columns;
  const there = { rows: true, plain: !steps, loss: metric !== null, cpu, gpu, mem: memory !== '' };
  return Object.entries(there).filter(([, given]) => given).map(([name]) => name).join(' ');
}
