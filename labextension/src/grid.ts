// A square for each of many ranks, on a canvas: how far it is behind by its shade, all else by a mark of its own.

import { frontOf, kindOf, type Kind } from './order';
import type { RankRow } from './protocol';

export const SQUARE = 11;
const STEP = 13;
const GAP = 4;
const [LEFT, TOP] = [40, 18];
const CALLOUTS = 12;

/** Where a square lies: `line` to a line, a wider gap after 8 columns and 8 lines. */
export function place(rank: number, line = 32): [number, number] {
  const column = rank % line;
  const row = Math.floor(rank / line);
  return [LEFT + column * STEP + Math.floor(column / 8) * GAP, TOP + row * STEP + Math.floor(row / 8) * GAP];
}

/** The size of a grid of so many ranks. */
export function extent(ranks: number, line: number): [number, number] {
  return [place(Math.min(line, ranks) - 1, line)[0] + SQUARE + 2, place(ranks - 1, line)[1] + SQUARE + 2];
}

/** The rank whose square is there, null between them. */
export function rankAt(x: number, y: number, ranks: number, line: number): number | null {
  for (let rank = 0; rank < ranks; rank++) {
    const [left, top] = place(rank, line);
    if (x >= left - 1 && x <= left + SQUARE + 1 && y >= top - 1 && y <= top + SQUARE + 1) {
      return rank;
    }
  }
  return null;
}

const TONES = ['run', 'ok', 'bad', 'late', 'dim', 'mark', 'track', 'paper', 'ink'] as const;
type Tones = { [tone in (typeof TONES)[number]]: string };

/** The colours of the theme, as a canvas can use them. */
function tonesOf(canvas: HTMLElement): Tones {
  const found = {} as Tones;
  for (const tone of TONES) {
    canvas.style.color = `var(--mm-${tone})`;
    found[tone] = getComputedStyle(canvas).color;
  }
  canvas.style.color = '';
  return found;
}

const TONE_MS = 1000;

/** Paints the squares. The colours of the theme are looked up once a second. */
export class Grid {
  private _tones: Tones | null = null;
  private _looked = 0;

  paint(canvas: HTMLCanvasElement, ranks: readonly RankRow[], line: number, focused: number, shown: (kind: Kind) => boolean): void {
    const context = canvas.getContext('2d');
    if (!context) {
      return;
    }
    if (!this._tones || performance.now() - this._looked > TONE_MS) {
      this._tones = tonesOf(canvas);
      this._looked = performance.now();
    }
    const tones = this._tones;
    const front = frontOf(ranks);
    const [width] = extent(ranks.length, line);
    context.setTransform(2, 0, 0, 2, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    this._axes(context, ranks.length, line, tones);
    const called: [RankRow, Kind][] = [];
    for (const row of ranks) {
      const kind = kindOf(row, front);
      const [x, y] = place(row.rank, line);
      context.globalAlpha = shown(kind) ? 1 : 0.2;
      square(context, x, y, kind, tones);
      if (kind === 'late' || kind === 'failed' || kind === 'lost') {
        called.push([row, kind]);
      }
    }
    context.globalAlpha = 1;
    called.sort(([a], [b]) => a.rank - b.rank);
    for (const [row, kind] of called.slice(0, CALLOUTS)) {
      callout(context, row.rank, kind, place(row.rank, line), width, tones);
    }
    if (focused >= 0) {
      const [x, y] = place(focused, line);
      context.lineWidth = 2;
      context.strokeStyle = tones.ink;
      context.strokeRect(x - 1.5, y - 1.5, SQUARE + 3, SQUARE + 3);
    }
  }

  private _axes(context: CanvasRenderingContext2D, count: number, line: number, tones: Tones): void {
    context.font = `11px ${getComputedStyle(context.canvas).fontFamily}`;
    context.fillStyle = tones.dim;
    context.textBaseline = 'alphabetic';
    context.textAlign = 'left';
    for (let column = 0; column < Math.min(line, count); column += 8) {
      context.fillText(`+${column}`, place(column, line)[0], TOP - 6);
    }
    context.textAlign = 'right';
    for (let row = 0; row * line < count; row += 4) {
      context.fillText(String(row * line), LEFT - 7, place(row * line, line)[1] + SQUARE - 1);
    }
  }
}

function square(context: CanvasRenderingContext2D, x: number, y: number, kind: Kind, tones: Tones): void {
  const alpha = context.globalAlpha;
  const fill = (tone: string) => {
    context.fillStyle = tone;
    context.fillRect(x, y, SQUARE, SQUARE);
  };
  switch (kind) {
    case 'b0':
    case 'b1':
    case 'b2':
    case 'b3': {
      const behind = Number(kind[1]);
      context.globalAlpha = alpha * [1, 0.72, 0.48, 0.28][behind]!;
      fill(tones.run);
      context.globalAlpha = alpha;
      context.fillStyle = tones.ink;
      for (let dot = 0; dot < behind; dot++) {
        context.fillRect(x + 1 + dot * 3, y + SQUARE - 3, 2, 2);
      }
      break;
    }
    case 'wait':
      fill(tones.track);
      context.fillStyle = tones.mark;
      context.fillRect(x + 3, y + 3, 2, 5);
      context.fillRect(x + 6, y + 3, 2, 5);
      break;
    case 'done':
      fill(tones.ok);
      break;
    case 'late':
      fill(tones.late);
      break;
    case 'failed':
    case 'lost':
      fill(tones.bad);
      break;
    case 'interrupted':
      fill(tones.mark);
      context.fillStyle = tones.paper;
      context.fillRect(x + 2, y + 2, 2, SQUARE - 4);
      context.fillRect(x + SQUARE - 4, y + 2, 2, SQUARE - 4);
      break;
    default:
      context.strokeStyle = tones.mark;
      context.lineWidth = 1;
      context.strokeRect(x + 0.5, y + 0.5, SQUARE - 1, SQUARE - 1);
  }
}

/** A mark that stands out, and the number of its rank beside it. */
function callout(context: CanvasRenderingContext2D, rank: number, kind: Kind, [x, y]: [number, number], width: number, tones: Tones): void {
  const [cx, cy] = [x + SQUARE / 2, y + SQUARE / 2];
  const tone = kind === 'late' ? tones.late : tones.bad;
  context.beginPath();
  if (kind === 'late') {
    context.moveTo(cx, cy - 10);
    context.lineTo(cx + 10, cy);
    context.lineTo(cx, cy + 10);
    context.lineTo(cx - 10, cy);
    context.closePath();
  } else {
    context.arc(cx, cy, 9, 0, 2 * Math.PI);
  }
  context.fillStyle = tone;
  context.fill();
  context.lineWidth = 1.5;
  context.strokeStyle = tones.paper;
  context.stroke();
  context.beginPath();
  context.lineWidth = 2;
  if (kind === 'late') {
    context.moveTo(cx, cy - 5.5);
    context.lineTo(cx, cy + 1.5);
    context.moveTo(cx, cy + 3.5);
    context.lineTo(cx, cy + 5.5);
  } else {
    context.moveTo(cx - 3.5, cy + 3.5);
    context.lineTo(cx + 3.5, cy - 3.5);
    if (kind === 'failed') {
      context.moveTo(cx - 3.5, cy - 3.5);
      context.lineTo(cx + 3.5, cy + 3.5);
    }
  }
  context.stroke();
  const text = String(rank);
  context.font = `600 11px ${getComputedStyle(context.canvas).fontFamily}`;
  const box = Math.ceil(context.measureText(text).width) + 10;
  const left = cx + 14 + box < width ? cx + 14 : cx - 14 - box;
  context.fillStyle = tones.paper;
  context.fillRect(left, cy - 9, box, 18);
  context.lineWidth = 1;
  context.strokeStyle = tone;
  context.strokeRect(left + 0.5, cy - 8.5, box - 1, 17);
  context.fillStyle = tones.ink;
  context.textAlign = 'center';
  context.fillText(text, left + box / 2, cy + 4);
}
