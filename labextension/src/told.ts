// What a rank tells of its loops and numbers beyond the columns that all rows have, in words.

import * as format from './format';
import type { Loop, Metric, RankRow } from './protocol';
import { plain } from './translate';

const METRICS = 3;
const LABEL_CHARACTERS = 24;

/** The loops of a rank with their labels, outermost first: `epoch 1 / 3 › batch 12 / 30`. */
export function loopsOf(row: RankRow): string {
  return row.loops.map(loop => [labelOf(loop), countOf(loop)].filter(Boolean).join(' ')).join(' › ');
}

/** What the columns leave out: outer loops, the label of the inner one, and further metrics than the one `shown`. */
export function besides(row: RankRow, shown: string | null): string {
  const inner = row.loops[row.loops.length - 1];
  const outer = row.loops.length > 1 ? row.loops[0] : undefined;
  const around = outer ? [labelOf(outer), countOf(outer)].filter(Boolean).join(' ') : '';
  const loops = [around, inner ? labelOf(inner) : ''].filter(Boolean).join(' › ');
  return [loops, ...numbersOf(row.metrics.filter(metric => metric.name !== shown))].filter(Boolean).join(' · ');
}

/** The newest values of a few metrics: `acc 0.75`. */
export function numbersOf(metrics: readonly Metric[]): string[] {
  return metrics.slice(0, METRICS).map(metric => `${cut(metric.name)} ${format.value(metric.value)}`);
}

function labelOf(loop: Loop): string {
  return loop.label === 'step' ? '' : cut(loop.label); // as the column is called
}

function cut(text: string): string {
  const clean = plain(text);
  return clean.length > LABEL_CHARACTERS ? `${clean.slice(0, LABEL_CHARACTERS - 1)}…` : clean;
}

function countOf(loop: Loop): string {
  return loop.total === null ? format.count(loop.step) : `${format.count(loop.step)} / ${format.count(loop.total)}`;
}
