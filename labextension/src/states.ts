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

/** Icon, tone, word, bar. */
const LOOKS: { [state: string]: readonly [IconName, string, string, string?] } = {
  launching: ['launch', 'wait', 'Launching'],
  restoring: ['restore', 'wait', 'Restoring'],
  rendezvous: ['rdv', 'wait', 'Rendezvous'],
  idle: ['idle', 'wait', 'Idle'],
  ready: ['idle', 'wait', 'Idle'],
  queued: ['queue', 'wait', 'Queued'],
  running: ['run', 'run', 'Running'],
  done: ['done', 'ok', 'Done', 'ok'],
  failed: ['fail', 'bad', 'Failed', 'bad'],
  interrupted: ['intr', 'wait', 'Interrupted', 'intr'],
  lost: ['lost', 'bad', 'Lost', 'bad'],
  recovering: ['restore', 'late', 'Recovering'],
  degraded: ['late', 'late', 'Degraded'],
  closing: ['intr', 'wait', 'Closing'],
  closed: ['lost', 'wait', 'Closed']
};

/** The look of a state. A word that is not known is shown as it is. */
export function lookOf(state: string): Look {
  const [icon, tone, word, bar = ''] = LOOKS[state] ?? ['idle', 'wait', state];
  return { icon, tone, word, bar };
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
