// Which of many ranks need a person, and how far each is behind.

import type { RankRow } from './protocol';

const FIRST: { [kind: Kind]: number } = { failed: 0, lost: 1, late: 2 };

/** What a square says: how many steps behind the front (b0 to b3), that it waits or is waited for, or its state. */
export type Kind = string;

/** All steps of a rank, those of inner loops counted through; null where it tells of none. */
export function steps(row: RankRow): number | null {
  if (!row.loops.length) {
    return null;
  }
  return row.loops.reduce((sum, loop) => sum * (loop.total ?? 1) + loop.step, 0);
}

/** The step of the rank that is furthest. */
export function frontOf(ranks: readonly RankRow[]): number {
  return ranks.reduce((most, row) => Math.max(most, steps(row) ?? 0), 0);
}

export function kindOf(row: RankRow, front: number): Kind {
  if (row.awaited) {
    return 'late';
  }
  if (row.waits_in) {
    return 'wait';
  }
  const step = steps(row);
  return row.state !== 'running' ? row.state : step === null ? 'b0' : `b${Math.min(3, Math.floor(front - step))}`;
}

/** Ranks with what needs a person first, then by how far they are behind. */
export function slowestFirst(ranks: readonly RankRow[]): RankRow[] {
  const front = frontOf(ranks);
  const key = (row: RankRow) => FIRST[kindOf(row, front)] ?? 3;
  const at = new Map(ranks.map(row => [row, steps(row) ?? Infinity]));
  return [...ranks].sort((a, b) => key(a) - key(b) || (at.get(a) ?? 0) - (at.get(b) ?? 0) || a.rank - b.rank);
}
