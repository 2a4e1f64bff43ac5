// What each state is called, drawn with and coloured as.

import type { IconName } from './icons';
import type { RankRow, Snapshot } from './protocol';

export interface Look {
  icon: IconName;
  tone: string;
  word: string;
  /** The class of the bar's fill; empty for a plain one. */
  bar: string;
}

const LOOKS: { [state: string]: Look } = {
  launching: { icon: 'launch', tone: 'wait', word: 'Launching', bar: '' },
  restoring: { icon: 'restore', tone: 'wait', word: 'Restoring', bar: '' },
  rendezvous: { icon: 'rdv', tone: 'wait', word: 'Rendezvous', bar: '' },
  idle: { icon: 'idle', tone: 'wait', word: 'Idle', bar: '' },
  ready: { icon: 'idle', tone: 'wait', word: 'Idle', bar: '' },
  queued: { icon: 'queue', tone: 'wait', word: 'Queued', bar: '' },
  running: { icon: 'run', tone: 'run', word: 'Running', bar: '' },
  done: { icon: 'done', tone: 'ok', word: 'Done', bar: 'ok' },
  failed: { icon: 'fail', tone: 'bad', word: 'Failed', bar: 'bad' },
  interrupted: { icon: 'intr', tone: 'wait', word: 'Interrupted', bar: 'intr' },
  lost: { icon: 'lost', tone: 'bad', word: 'Lost', bar: 'bad' },
  recovering: { icon: 'restore', tone: 'late', word: 'Recovering', bar: '' },
  degraded: { icon: 'late', tone: 'late', word: 'Degraded', bar: '' },
  closing: { icon: 'intr', tone: 'wait', word: 'Closing', bar: '' },
  closed: { icon: 'lost', tone: 'wait', word: 'Closed', bar: '' }
};

const UNKNOWN: Look = { icon: 'idle', tone: 'wait', word: 'Unknown', bar: '' };

/** The look of a state. A word that is not known is shown as it is. */
export function lookOf(state: string): Look {
  return LOOKS[state] ?? { ...UNKNOWN, word: state };
}

/** The look of a rank: one that waits or is waited for is told by that. */
export function lookOfRank(row: RankRow): Look {
  if (row.awaited) {
    return { icon: 'late', tone: 'late', word: 'Straggler', bar: 'late' };
  }
  return row.waits_in ? { icon: 'wait', tone: 'wait', word: row.waits_in, bar: 'wait' } : lookOf(row.state);
}

/** Whether a rank rests: its age is then told in minutes. */
export function rests(row: RankRow): boolean {
  return row.state === 'idle' || row.state === 'lost' || row.state === 'ready';
}

/** The look of a session: that of its run while that goes on or did not end well, else its own. */
export function lookOfSession(shot: Snapshot): Look {
  if (shot.run_state === 'running' && shot.kernels === 0) {
    return { icon: 'late', tone: 'late', word: 'Kernel gone, still running', bar: '' };
  }
  if (shot.run_state === 'running' || shot.run_state === 'queued') {
    return lookOf(shot.run_state);
  }
  return shot.state === 'ready' || shot.state === 'running' ? lookOf('idle') : lookOf(shot.state);
}

/** The look of a run, for the cell that it belongs to. */
export function lookOfRun(shot: Snapshot): Look {
  return lookOf(shot.run_state || shot.state);
}
