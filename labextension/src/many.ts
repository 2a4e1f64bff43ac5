// Many ranks: the grid, a legend that filters, and a list of those that are the furthest behind.

import { html, nothing, type TemplateResult } from 'lit-html';

import * as format from './format';
import { extent, Grid, rankAt } from './grid';
import { icon } from './icons';
import { frontOf, kindOf, slowestFirst, steps, type Kind } from './order';
import type { RankRow, Snapshot } from './protocol';
import { columnsOf, sparkOf } from './rows';
import { lookOf, lookOfRank } from './states';
import { plain, type Say } from './translate';

const ROW = 24;
const SEEN = 10;
const NARROW = 520;
const NARROWEST = 300;

/** The ranks that a search means: a number, a range `8-15`, or a node `n3`. */
export function matches(row: RankRow, query: string): boolean {
  const node = /^n(\d+)$/.exec(query);
  const range = /^(\d+)-(\d+)$/.exec(query);
  if (node) {
    return row.node === Number(node[1]);
  }
  return range ? row.rank >= Number(range[1]) && row.rank <= Number(range[2]) : !query || String(row.rank) === query;
}

/** What the entries of the legend count, in their order; those of a run that goes on are there with 0 too. */
export function legendOf(ranks: readonly RankRow[]): Map<Kind, number> {
  const front = frontOf(ranks);
  const going = ranks.some(row => row.state === 'running');
  const kinds = going ? ['b0', 'b1', 'b2', 'b3', 'late', 'wait', 'failed', 'lost'] : ['failed', 'lost'];
  const counts = new Map<Kind, number>(kinds.map(kind => [kind, 0]));
  for (const row of ranks) {
    const kind = kindOf(row, front);
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  return counts;
}

export class ManyRanks {
  private _canvas: HTMLCanvasElement | null = null;
  private _shot: Snapshot | null = null;
  private _grid = new Grid();
  private _query = '';
  private _kind: Kind = '';
  private _top = 0;
  private _line = 32;
  private _focus = -1;

  constructor(
    private readonly _say: Say,
    private readonly _draw: () => void,
    private readonly _open: (rank: number) => void
  ) {}

  template(shot: Snapshot, now: number, width: number): TemplateResult {
    const __ = this._say;
    this._shot = shot;
    this._line = width > 0 && width < NARROWEST ? 8 : width > 0 && width < NARROW ? 16 : 32;
    const { ranks } = shot;
    const front = frontOf(ranks);
    const counts = legendOf(ranks);
    const found = slowestFirst(ranks).filter(
      row => (!this._kind || kindOf(row, front) === this._kind) && matches(row, this._query)
    );
    const first = Math.max(0, Math.min(Math.floor(this._top / ROW), found.length - SEEN));
    const told = [...counts].filter(([, count]) => count).map(([kind, count]) => `${count} ${this._word(kind, front)}`);
    const [wide, high] = extent(ranks.length, this._line);
    const focused = ranks[this._focus];
    return html`<div class="many">
      <div>
        <div class="tools">${__('%1 ranks, %2 a line', format.count(ranks.length), this._line)}</div>
        <canvas
          role="img"
          tabindex="0"
          aria-label="${__('%1 ranks', ranks.length)}: ${told.join(', ')}"
          width=${wide * 2}
          height=${high * 2}
          style="width:${wide}px;height:${high}px"
          @keydown=${(event: KeyboardEvent) => this._key(event)}
          @click=${(event: MouseEvent) => this._press(event)}
          @blur=${() => this._move(-1)}
        ></canvas>
        <div class="tools" role="status">${focused ? this._facts(focused) : nothing}</div>
      </div>
      <div>
        <div class="tools">${__('State (press to filter)')}</div>
        <div class="legend">${[...counts].map(([kind, count]) => this._entry(kind, count, front))}</div>
        ${this._summary(shot)}
        <div class="tools">
          <span>${__('Slowest first')}</span>
          <input
            class="inp"
            type="search"
            placeholder=${__('rank or node')}
            aria-label=${__('rank, range of ranks, or node')}
            .value=${this._query}
            @input=${(event: InputEvent) => this._search((event.target as HTMLInputElement).value.trim())}
            @keydown=${(event: KeyboardEvent) => event.key === 'Escape' && this._leave(event.target as HTMLElement)}
          />
        </div>
        <div class="vt">
          <div class="vr th2" aria-hidden="true">
            <span class="r">${__('Rank')}</span><span>${__('Node')}</span><span>${__('State')}</span
            ><span class="r">${__('Behind')}</span><span class="r">${__('Step/s')}</span><span>${__('Cell line')}</span>
          </div>
          <div class="vs" tabindex="0" role="region" aria-label=${__('ranks, slowest first')} @scroll=${(event: Event) => this._scroll(event)}>
            <div role="list" style="height:${found.length * ROW}px">
              ${found.slice(first, first + SEEN + 1).map((row, index) => this._listed(row, (first + index) * ROW, front, now))}
            </div>
          </div>
        </div>
        <div class="tools">
          ${found.length
            ? __('%1 to %2 of %3', format.count(first + 1), format.count(Math.min(found.length, first + SEEN)), format.count(found.length))
            : __('No rank is so.')}
        </div>
      </div>
    </div>`;
  }

  /** Paint the squares, once the template is in the page. */
  paint(host: HTMLElement): void {
    const canvas = this._shot ? host.querySelector<HTMLCanvasElement>('.many canvas') : null;
    if (canvas !== this._canvas) {
      this._canvas = canvas; // that it is new has cost enough for now: the colours of a page that has changed do too
      requestAnimationFrame(() => this.paint(host));
    } else if (this._shot && canvas) {
      this._grid.paint(canvas, this._shot.ranks, this._line, this._focus, kind => !this._kind || kind === this._kind);
    }
  }

  private _word(kind: Kind, front: number): string {
    const __ = this._say;
    switch (kind) {
      case 'b0':
        return front ? __('Running, at the front (step %1)', format.count(front)) : __('Running');
      case 'b1':
        return __('Running, 1 step behind');
      case 'b2':
        return __('Running, 2 steps behind');
      case 'b3':
        return __('Running, 3 or more behind');
      case 'late':
        return __('Straggler');
      case 'wait':
        return __('Waiting in a collective');
    }
    return __(lookOf(kind).word);
  }

  private _entry(kind: Kind, count: number, front: number): TemplateResult {
    const behind = /^b\d$/.test(kind);
    const look = kind === 'late' ? { icon: 'late' as const, tone: 'late' } : kind === 'wait' ? { icon: 'wait' as const, tone: 'wait' } : lookOf(kind);
    return html`<button
      class=${count ? '' : 'zero'}
      aria-pressed=${this._kind === kind ? 'true' : 'false'}
      @click=${() => this._filter(kind)}
    >
      ${behind
        ? html`<span class="swatch ${kind}" aria-hidden="true">${'·'.repeat(Number(kind[1]))}</span>`
        : icon(look.icon, look.tone)}<span class="el ${kind === 'late' && count ? 'word late' : ''}">${this._word(kind, front)}</span
      ><span>${format.count(count)}</span>
    </button>`;
  }

  private _summary(shot: Snapshot): TemplateResult | typeof nothing {
    const __ = this._say;
    const inner = shot.ranks.flatMap(row => row.loops.slice(-1));
    const [least, most] = range(inner.map(loop => loop.step));
    const [, total] = range(inner.map(loop => loop.total ?? NaN));
    const [slow] = range(inner.map(loop => loop.rate ?? NaN));
    const columns = columnsOf(shot);
    const metrics = shot.ranks.flatMap(row => row.metrics.filter(metric => metric.name === columns.metric));
    const [low, high] = range(metrics.map(metric => metric.value));
    const values = metrics.map(metric => metric.value).filter(value => value !== null && Number.isFinite(value));
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    if (!inner.length && !metrics.length) {
      return nothing;
    }
    return html`<div class="sum">
      ${inner.length
        ? html`<span><span class="dim">${__('step')}</span> ${least === most ? format.count(most) : __('%1 to %2', format.count(least), format.count(most))}${Number.isFinite(total) ? html` <span class="dim">/ ${format.count(total)}</span>` : nothing}</span>
            <span><span class="dim">${__('slowest step/s')}</span> ${format.rate(Number.isFinite(slow) ? slow : null)}</span>`
        : nothing}
      ${values.length
        ? html`<span><span class="dim">${columns.metric}</span> ${format.value(mean)} <span class="dim">(${__('%1 to %2', format.value(low), format.value(high))})</span>
            ${metrics[0] && metrics[0].values.length > 1 ? sparkOf(metrics[0], columns) : nothing}</span>`
        : nothing}
    </div>`;
  }

  private _listed(row: RankRow, top: number, front: number, now: number): TemplateResult {
    const look = lookOfRank(row);
    const at = steps(row);
    const loop = row.loops[row.loops.length - 1];
    const since = row.waits_since || row.since;
    const age = row.seconds !== null ? format.duration(row.seconds) : since ? format.age(now - since, false) : '';
    const mark = row.state === 'failed' || row.state === 'lost' ? 'err' : row.awaited ? 'hit' : '';
    const behind = at === null || row.state !== 'running' ? '' : front === at ? '0' : `−${format.count(front - at)}`;
    return html`<div class="vr ${mark}" role="listitem" style="top:${top}px" @click=${() => this._open(row.rank)}>
      <b class="r">${row.rank}</b><span class="dim">n${row.node}</span>
      <span class="g-st"
        >${icon(look.icon, look.tone)}<span class="word el ${row.awaited ? 'late' : ''}">${this._say(look.word)}</span><span class="dim">${age}</span></span
      >
      <span class="r">${behind}</span>
      <span class="r">${loop && row.state === 'running' ? format.rate(loop.rate) : ''}</span>
      <span class="code el">${row.line ? `${row.line}${row.function ? ` in ${plain(row.function)}` : ''}` : row.last_line}</span>
    </div>`;
  }

  private _facts(row: RankRow): string {
    const at = steps(row);
    const place = row.line ? this._say('cell line %1', row.line) : '';
    const parts = [this._say('rank %1, node %2', row.rank, row.node), this._say(lookOfRank(row).word), at === null ? '' : this._say('step %1', format.count(at)), place];
    return parts.filter(Boolean).join(' · ');
  }

  private _filter(kind: Kind): void {
    this._kind = this._kind === kind ? '' : kind;
    this._draw();
  }

  private _search(query: string): void {
    this._query = query;
    this._draw();
  }

  private _leave(search: HTMLElement): void {
    search.blur();
    this._search('');
  }

  private _scroll(event: Event): void {
    this._top = (event.target as HTMLElement).scrollTop;
    this._draw();
  }

  private _move(to: number): void {
    this._focus = to;
    this._draw();
  }

  private _press(event: MouseEvent): void {
    const rank = rankAt(event.offsetX, event.offsetY, this._shot?.ranks.length ?? 0, this._line);
    if (rank !== null) {
      this._focus = rank;
      this._open(rank);
    }
  }

  private _key(event: KeyboardEvent): void {
    const last = (this._shot?.ranks.length ?? 1) - 1;
    const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this._line, ArrowUp: -this._line, Home: -Infinity, End: Infinity }[event.key];
    if (by !== undefined) {
      this._move(this._focus < 0 ? 0 : Math.max(0, Math.min(last, this._focus + by)));
    } else if (event.key === 'Enter' && this._focus >= 0) {
      this._open(this._focus);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
}

function range(numbers: readonly number[]): [number, number] {
  const known = numbers.filter(number => number !== null && Number.isFinite(number));
  return known.length
    ? known.reduce<[number, number]>(([low, high], each) => [Math.min(low, each), Math.max(high, each)], [Infinity, -Infinity])
    : [NaN, NaN];
}
