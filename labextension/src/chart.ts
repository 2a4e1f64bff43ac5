// A metric over its steps: a line for each of few ranks; of more, their mean between the lowest and the highest.

import { html, nothing, svg, type TemplateResult } from 'lit-html';

import type { Band } from './api';
import * as format from './format';
import type { Say } from './translate';

/** More ranks than this are drawn as a band. */
export const LINES = 8;
const HEIGHT = 148;
const [LEFT, RIGHT, TOP, BOTTOM] = [44, 52, 8, 22];
const DASHES = ['', '5 2', '1.5 2', '8 2 2 2'];
const LABEL = 13;

export interface Course {
  rank: number;
  steps: readonly number[];
  values: readonly (number | null)[];
}

/** Round numbers between two bounds, about `count` of them. */
export function ticks(low: number, high: number, count: number): number[] {
  const rough = (high - low) / Math.max(1, count);
  if (!(rough > 0) || !Number.isFinite(rough)) {
    return [low];
  }
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(size => size >= rough * 0.999) ?? rough;
  const found: number[] = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at++) {
    found.push(Number((at * step).toPrecision(12)));
  }
  return found;
}

/** Labels at these heights, moved apart so that none covers another, and kept above `most`. */
export function spread(heights: readonly number[], gap: number, most: number): number[] {
  const order = heights.map((_, index) => index).sort((a, b) => (heights[a] ?? 0) - (heights[b] ?? 0));
  const placed = [...heights];
  let free = -Infinity;
  for (const index of order) {
    placed[index] = Math.max(heights[index] ?? 0, free);
    free = (placed[index] ?? 0) + gap;
  }
  let limit = most;
  for (const index of order.reverse()) {
    placed[index] = Math.min(placed[index] ?? 0, limit);
    limit = (placed[index] ?? 0) - gap;
  }
  return placed;
}

/** The chart of one metric, `width` pixels wide. */
export function chart(name: string, courses: readonly Course[], band: Band | null, ranks: number, width: number, say: Say): TemplateResult {
  const finite = (values: readonly (number | null)[]) =>
    values.filter((value): value is number => value !== null && Number.isFinite(value));
  const numbers = finite([...courses.flatMap(course => course.values), ...(band ? [...band.low, ...band.high] : [])]);
  const steps = finite([...courses.flatMap(course => course.steps), ...(band?.steps ?? [])]);
  if (!numbers.length || !steps.length) {
    return html`<p class="empty dim">${say('No value yet.')}</p>`;
  }
  let [low, high] = extent(numbers);
  if (low === high) {
    [low, high] = [low - Math.max(1e-9, Math.abs(low) * 0.1), high + Math.max(1e-9, Math.abs(high) * 0.1)];
  }
  const [first, last] = extent(steps);
  const inner = Math.max(40, width - LEFT - RIGHT);
  const x = (step: number) => LEFT + (last > first ? (step - first) / (last - first) : 1) * inner;
  const y = (value: number) => TOP + (1 - (value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const line = (at: readonly number[], values: readonly (number | null)[]) => {
    let pen = 'M';
    let path = '';
    values.forEach((value, index) => {
      const step = at[index];
      if (value === null || step === undefined || !Number.isFinite(value)) {
        pen = 'M';
      } else {
        path += `${pen}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
        pen = 'L';
      }
    });
    return path;
  };
  const ends = courses.map(course => finite(course.values).pop() ?? low);
  const heights = spread(ends.map(y), LABEL, HEIGHT - BOTTOM);
  const now = finite(band ? [band.low[band.low.length - 1] ?? null, band.high[band.high.length - 1] ?? null] : ends);
  const told = now.length ? say('%1 over steps, %2 ranks: now between %3 and %4', name, ranks, format.value(Math.min(...now)), format.value(Math.max(...now))) : name;
  return html`<svg class="chart" role="img" aria-label=${told} viewBox="0 0 ${width} ${HEIGHT}" width=${width} height=${HEIGHT}>
    ${ticks(low, high, 4).map(
      tick => svg`<path class="grid" d="M${LEFT} ${y(tick)}H${LEFT + inner}"/><text x=${LEFT - 6} y=${y(tick) + 4} text-anchor="end">${short(tick)}</text>`
    )}
    ${ticks(first, last, Math.max(2, Math.floor(inner / 80))).map(
      tick => svg`<text x=${x(tick)} y=${HEIGHT - 5} text-anchor=${x(tick) > LEFT + inner - 8 ? 'end' : 'middle'}>${short(tick)}</text>`
    )}
    ${band ? svg`<path class="band" d=${area(line(band.steps, band.high), line([...band.steps].reverse(), [...band.low].reverse()))}></path><path class="mean" d=${line(band.steps, band.mean)}></path>` : nothing}
    ${courses.map((course, index) => {
      const colour = `var(--mm-r${course.rank % 4})`;
      const end = y(ends[index] ?? low);
      const at = heights[index] ?? end;
      return svg`<path class="line" d=${line(course.steps, course.values)} stroke=${colour} stroke-dasharray=${DASHES[(course.rank + Math.floor(course.rank / 4)) % 4] ?? ''}></path>
        <path d="M${LEFT + inner + 1} ${end.toFixed(1)}L${LEFT + inner + 7} ${at.toFixed(1)}" stroke=${colour} fill="none"></path>
        <text x=${LEFT + inner + 9} y=${at + 4} style="fill:${colour}">${say('rank %1', course.rank)}</text>`;
    })}
    ${band && !courses.length ? svg`<text x=${LEFT + inner + 6} y=${y(finite(band.mean).pop() ?? low) + 4}>${say('mean')}</text>` : nothing}
  </svg>`;
}

function extent(numbers: readonly number[]): [number, number] {
  return numbers.reduce<[number, number]>(([low, high], each) => [Math.min(low, each), Math.max(high, each)], [Infinity, -Infinity]);
}

function area(above: string, below: string): string {
  return above && below ? `${above}L${below.slice(1)}Z` : '';
}

/** A number on an axis. */
function short(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e6 || (size > 0 && size < 1e-3)) {
    return value.toExponential(0);
  }
  return size >= 1e4 ? `${Number((value / 1000).toPrecision(4))}k` : String(Number(value.toPrecision(4)));
}
