// Many ranks: a grid with a square for each, and a list of those that are the furthest behind.

import { html, nothing, type TemplateResult } from 'lit-html';

import * as format from './format';
import { icon } from './icons';
import type { RankRow, Snapshot } from './protocol';
import { lookOf, lookOfRank } from './states';

const SQUARE = 11;
const STEP = 13;
const LINE = 32;
const GAP = 4;
const ROW = 24;
const SEEN = 11;
const URGENT = new Set(['failed', 'lost']);

/** Where a square lies: 32 to a line, a wider gap after 8 columns and 8 lines. */
export function place(rank: number): [number, number] {
  const column = rank % LINE;
  const line = Math.floor(rank / LINE);
  return [column * STEP + Math.floor(column / 8) * GAP, line * STEP + Math.floor(line / 8) * GAP];
}

/** Ranks with what needs a person first, then by how far they are behind. */
export function slowestFirst(ranks: readonly RankRow[]): RankRow[] {
  const key = (row: RankRow) => (URGENT.has(row.state) || row.awaited ? -1 : (row.fraction ?? 2));
  return [...ranks].sort((a, b) => key(a) - key(b) || a.rank - b.rank);
}

/** The ranks that a search means: a number, a range `8-15`, or a node `n3`. */
export function matches(row: RankRow, query: string): boolean {
  const node = /^n(\d+)$/.exec(query);
  const range = /^(\d+)-(\d+)$/.exec(query);
  if (node) {
    return row.node === Number(node[1]);
  }
  return range ? row.rank >= Number(range[1]) && row.rank <= Number(range[2]) : !query || String(row.rank) === query;
}

/** Draws the grid on a canvas, so that a thousand squares cost one element. */
export class ManyRanks {
  private _shot: Snapshot | null = null;
  private _query = '';
  private _state = '';
  private _top = 0;

  constructor(private readonly _draw: () => void) {}

  template(shot: Snapshot, now: number): TemplateResult {
    this._shot = shot;
    const counts = new Map<string, number>();
    shot.ranks.forEach(row => counts.set(row.state, (counts.get(row.state) ?? 0) + 1));
    const found = slowestFirst(shot.ranks).filter(
      row => (!this._state || row.state === this._state) && matches(row, this._query)
    );
    const first = Math.max(0, Math.min(Math.floor(this._top / ROW), found.length - SEEN));
    const summary = [...counts].map(([state, count]) => `${count} ${lookOf(state).word.toLowerCase()}`).join(', ');
    const [width, height] = [place(LINE - 1)[0] + SQUARE, place(shot.ranks.length - 1)[1] + SQUARE];
    return html`<div class="many">
      <canvas
        role="img"
        aria-label="${shot.ranks.length} ranks: ${summary}"
        width=${width * 2}
        height=${height * 2}
        style="width:${width}px;height:${height}px"
        title="${shot.ranks.length} ranks, 32 a line"
      ></canvas>
      <div>
        <div class="legend">
          ${[...counts].map(([state, count]) => {
            const look = lookOf(state);
            return html`<button aria-pressed=${this._state === state ? 'true' : 'false'} @click=${() => this._filter(state)}>
              ${icon(look.icon, look.tone)}${look.word} <span class="dim">${format.count(count)}</span>
            </button>`;
          })}
        </div>
        <div class="tools">
          <span>Slowest first</span>
          <input
            class="inp"
            type="search"
            placeholder="rank or node"
            aria-label="rank, range of ranks, or node"
            .value=${this._query}
            @input=${(event: InputEvent) => this._search((event.target as HTMLInputElement).value.trim())}
          />
        </div>
        <div class="vt" tabindex="0" role="region" aria-label="ranks, slowest first" @scroll=${(event: Event) => this._scroll(event)}>
          <div style="height:${found.length * ROW}px"></div>
          ${found.slice(first, first + SEEN + 1).map((row, index) => listed(row, (first + index) * ROW, now))}
        </div>
        <div class="tools">${found.length ? `${format.count(found.length)} of ${format.count(shot.ranks.length)}` : nothing}</div>
      </div>
    </div>`;
  }

  /** Paint the squares: the further behind the front, the paler; other states by their colour. */
  paint(host: HTMLElement): void {
    const shot = this._shot;
    const canvas = host.querySelector<HTMLCanvasElement>('.many canvas');
    const context = shot && canvas ? canvas.getContext('2d') : null;
    if (!shot || !canvas || !context) {
      return;
    }
    const style = getComputedStyle(canvas);
    const colour = (name: string) => style.getPropertyValue(name).trim();
    const tones: { [tone: string]: string } = {
      run: colour('--mm-run'), ok: colour('--mm-ok'), bad: colour('--mm-bad'), late: colour('--mm-late'), wait: colour('--mm-mark')
    };
    const front = Math.max(...shot.ranks.map(row => row.loops[row.loops.length - 1]?.step ?? 0));
    context.setTransform(2, 0, 0, 2, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    for (const row of shot.ranks) {
      const [x, y] = place(row.rank);
      const step = row.loops[row.loops.length - 1]?.step;
      const behind = row.state === 'running' && step !== undefined ? Math.min(3, front - step) : 0;
      context.globalAlpha = 1 - behind * 0.22;
      context.fillStyle = tones[lookOfRank(row).tone] ?? tones['wait'] ?? '#757575';
      context.fillRect(x, y, SQUARE, SQUARE);
      context.globalAlpha = 1;
      context.fillStyle = colour('--jp-layout-color1');
      for (let dot = 0; dot < behind; dot++) {
        context.fillRect(x + 2 + dot * 3, y + SQUARE - 4, 2, 2);
      }
      if (URGENT.has(row.state)) {
        context.fillRect(x + 2, y + SQUARE / 2 - 1, SQUARE - 4, 2);
      }
    }
  }

  private _filter(state: string): void {
    this._state = this._state === state ? '' : state;
    this._draw();
  }

  private _search(query: string): void {
    this._query = query;
    this._draw();
  }

  private _scroll(event: Event): void {
    this._top = (event.target as HTMLElement).scrollTop;
    this._draw();
  }
}

function listed(row: RankRow, top: number, now: number): TemplateResult {
  const look = lookOfRank(row);
  const loop = row.loops[row.loops.length - 1];
  const age = row.seconds !== null ? format.duration(row.seconds) : row.since ? format.age(now - row.since, false) : '';
  return html`<div class="vr" style="top:${top}px">
    <b class="r">${row.rank}</b><span class="dim">n${row.node}</span>
    <span class="g-st">${icon(look.icon, look.tone)}<span class="word">${look.word}</span><span class="dim el">${age}</span></span>
    <span class="r">${loop ? `${format.count(loop.step)}${loop.total === null ? '' : ` / ${format.count(loop.total)}`}` : ''}</span>
    <span class="r">${loop && row.state === 'running' ? format.rate(loop.rate) : ''}</span>
    <span class="code el">${row.last_line}</span>
  </div>`;
}
