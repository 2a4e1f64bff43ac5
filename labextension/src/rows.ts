// The rows of ranks, one for each, in their order: state, bar, step, rate, time left, metric, last line.

import { html, nothing, svg, type TemplateResult } from 'lit-html';

import * as format from './format';
import { icon } from './icons';
import type { Metric, RankRow, Snapshot } from './protocol';
import { lookOfRank, rests } from './states';
import { besides, loopsOf } from './told';
import { plain, type Say } from './translate';

/** What the rows of one view have in common. */
export interface Columns {
  steps: boolean;
  metric: string | null;
  low: number;
  high: number;
  cpu: boolean;
  gpu: boolean;
  /** The title of the memory that has a column: that of the GPU where there is one. Empty: none. */
  memory: '' | 'GPU mem' | 'Memory';
}

/** The columns that a snapshot fills; the courses of one metric share one scale. */
export function columnsOf(shot: Snapshot, wanted: string | null = null): Columns {
  const names = new Set(shot.ranks.flatMap(row => row.metrics.map(metric => metric.name)));
  const metric =
    wanted !== null && names.has(wanted) ? wanted : names.has('loss') ? 'loss' : ([...names][0] ?? null);
  let low = Infinity;
  let high = -Infinity;
  for (const row of shot.ranks) {
    for (const number of row.metrics.find(each => each.name === metric)?.values ?? []) {
      if (Number.isFinite(number) && number !== null) {
        low = Math.min(low, number);
        high = Math.max(high, number);
      }
    }
  }
  const gpu = shot.ranks.some(row => row.gpu_memory !== null);
  const memory = gpu ? 'GPU mem' : shot.ranks.some(row => row.memory !== null) ? 'Memory' : '';
  const cpu = shot.ranks.some(row => row.cpu !== null);
  return { steps: shot.ranks.some(row => row.loops.length > 0), metric, low, high, cpu, gpu, memory };
}

/** The titles above the rows. */
export function titles(columns: Columns, say: Say): TemplateResult {
  const { steps, metric, cpu, gpu, memory } = columns;
  const title = (column: string, text: unknown) => html`<span class="g-${column}" role="columnheader">${text}</span>`;
  return html`<div class="th" role="row">
    ${title('x', html`<span class="sr">${say('Log')}</span>`)} ${title('rk', say('Rank'))} ${title('st', say('State'))}
    ${steps ? html`${title('bar', say('Step'))} ${title('rate', say('Step/s'))} ${title('left', say('Left'))}` : nothing}
    ${metric !== null ? title('loss el', metric) : nothing} ${cpu ? title('cpu', 'CPU') : nothing}
    ${gpu ? title('gpu', 'GPU') : nothing} ${memory ? title('mem', say(memory)) : nothing}
    ${title('last', say('Last line'))}
  </div>`;
}

/** One row. `now` is the time by the session's clock. */
export function rankRow(
  row: RankRow,
  columns: Columns,
  now: number,
  open: boolean,
  focused: boolean,
  toggle: (rank: number) => void,
  say: Say
): TemplateResult {
  const look = lookOfRank(row);
  const beside = besides(row, columns.metric);
  const mark = row.state === 'failed' || row.state === 'lost' ? 'err' : row.awaited ? 'hit' : open ? 'sel' : '';
  return html`<div
    class="row ${mark}"
    role="row"
    data-rank=${row.rank}
    aria-expanded=${open ? 'true' : 'false'}
    tabindex=${focused ? 0 : -1}
    @click=${() => toggle(row.rank)}
  >
    ${cell('x', icon(open ? 'down' : 'right'))}
    <span class="g-rk" role="rowheader">${row.rank}</span>
    ${cell(
      'st',
      html`${icon(look.icon, look.tone)}<span class="word el ${row.awaited ? 'late' : ''}">${say(look.word)}</span><span class="dim el">${since(row, now, say)}</span>`
    )}
    ${columns.steps ? steps(row, look.bar, say) : nothing}
    ${columns.metric !== null ? metricCell(row.metrics.find(each => each.name === columns.metric), columns) : nothing}
    ${columns.cpu ? cell('cpu', meter('CPU', row.cpu, 100, format.percent)) : nothing}
    ${columns.gpu ? cell('gpu', meter('GPU', row.gpu, 100, format.percent)) : nothing}
    ${columns.memory
      ? cell('mem', columns.gpu ? meter(columns.memory, row.gpu_memory, row.gpu_total, format.size) : format.size(row.memory))
      : nothing}
    ${cell('last code el', html`${beside ? html`<span class="dim">${beside}</span> ` : nothing}${plain(row.last_line)}`)}
  </div>`;
}

/** A cell of a row, in the column of this name. */
function cell(column: string, content: unknown, title = ''): TemplateResult {
  return html`<span class="g-${column}" role="gridcell" title=${title || nothing}>${content}</span>`;
}

/** A figure above the share that it is of all there is. */
function meter(
  name: string,
  value: number | null,
  total: number | null,
  told: (value: number | null) => string
): TemplateResult {
  if (value === null || !total) {
    return html`<span class="dim">–</span>`;
  }
  const percent = Math.min(100, Math.round((value / total) * 100));
  return html`<span
    class="meter"
    role="meter"
    aria-label=${name}
    aria-valuemin="0"
    aria-valuemax="100"
    aria-valuenow=${percent}
    aria-valuetext=${told(value)}
    >${told(value)}<i><i style="width:${percent}%"></i></i
  ></span>`;
}

/** What stands dim behind a state: its age, how long it took, or the line where it ended. */
function since(row: RankRow, now: number, say: Say): string {
  if ((row.state === 'failed' || row.state === 'interrupted') && row.line) {
    return say('line %1', row.line);
  }
  if (row.awaited && row.line) {
    return `${row.waits_since ? `${format.age(now - row.waits_since, false)} · ` : ''}${say('line %1', row.line)}`;
  }
  if (row.waits_in) {
    return row.waits_since ? format.age(now - row.waits_since, false) : '';
  }
  if (row.seconds !== null) {
    return format.duration(row.seconds);
  }
  return row.since ? format.age(now - row.since, rests(row)) : '';
}

function steps(row: RankRow, look: string, say: Say): TemplateResult {
  const loop = row.loops[row.loops.length - 1];
  if (!loop) {
    return html`${['bar', 'step', 'rate', 'left'].map(column => cell(column, nothing))}`;
  }
  const percent = row.fraction === null ? null : Math.round(row.fraction * 1000) / 10;
  const bar = html`<div
    class="bar ${look}"
    role="progressbar"
    aria-label=${say('rank %1', row.rank)}
    aria-valuemin="0"
    aria-valuemax="100"
    aria-valuenow=${percent ?? nothing}
  >
    <i style="width:${percent ?? 0}%"></i>
  </div>`;
  const total = loop.total === null ? nothing : html` <span class="dim">/ ${format.count(loop.total)}</span>`;
  return html`${cell('bar', bar)} ${cell('step', html`${format.count(loop.step)}${total}`, loopsOf(row))}
  ${cell('rate', row.state === 'running' ? format.rate(loop.rate) : '–')} ${cell('left', format.duration(row.left))}`;
}

function metricCell(metric: Metric | undefined, columns: Columns): TemplateResult {
  return cell('loss', metric ? html`${sparkOf(metric, columns)}<span>${format.value(metric.value)}</span>` : nothing);
}

const WIDTH = 56;
const HEIGHT = 16;

/** Where the points of a course lie, in a box of this size. */
export function path(values: readonly number[], low: number, high: number): [number, number][] {
  const known = values.filter(number => number !== null && Number.isFinite(number));
  const span = high - low;
  return known.map((number, index) => [
    known.length > 1 ? Math.round((index / (known.length - 1)) * WIDTH) : WIDTH,
    Math.round((span > 0 ? 1 + (1 - (number - low) / span) * (HEIGHT - 2.5) : HEIGHT / 2) * 10) / 10
  ]);
}

/** The course of a metric, small. */
export function sparkOf(metric: Metric, columns: Columns): TemplateResult | typeof nothing {
  const points = path(metric.values, columns.low, columns.high);
  const last = points[points.length - 1];
  if (!last) {
    return nothing;
  }
  return html`<svg class="spark" viewBox="0 0 ${WIDTH} ${HEIGHT}" aria-hidden="true">
    ${svg`<path d="M${points.map(point => point.join(' ')).join(' ')}"></path><circle cx=${last[0]} cy=${last[1]} r="1.7"></circle>`}
  </svg>`;
}
