// Snapshots that a notebook holds: whether they are some, and what to draw where the server knows more.

import type { Snapshot } from './protocol';
import type { Known } from './store';

/** Whether a notebook's data is what a snapshot looks like: it can come from anywhere. */
export function isSnapshot(data: unknown): data is Snapshot {
  const shot = data as Snapshot | null;
  return (
    typeof shot === 'object' &&
    shot !== null &&
    typeof shot.session === 'string' &&
    typeof shot.run === 'string' &&
    typeof shot.now === 'number' &&
    Array.isArray(shot.ranks) &&
    Array.isArray(shot.stages) &&
    shot.ranks.every(
      row => typeof row?.rank === 'number' && typeof row.state === 'string' && Array.isArray(row.loops) && Array.isArray(row.metrics)
    )
  );
}

/** What to draw of a run: the server's picture of it, the last one seen of that, or the notebook's own. */
export function chosen(saved: Known | null, served: Known | undefined, last: Known | null): { known: Known | null; fixed: boolean } {
  if (saved && served?.shot.run === saved.shot.run) {
    return { known: served, fixed: false };
  }
  const newest = last && saved && last.shot.run === saved.shot.run && last.shot.now > saved.shot.now ? last : saved;
  return { known: newest, fixed: true };
}
