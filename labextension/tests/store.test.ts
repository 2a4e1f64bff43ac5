import { describe, expect, it } from 'vitest';

import type { RankRow, Snapshot } from '../src/protocol';
import { applied, EventParser, Store, type Known, type Patch } from '../src/store';

export function row(rank: number, more: Partial<RankRow> = {}): RankRow {
  return {
    rank, node: rank, pid: 1, state: 'running', since: 100, seconds: null, line: 0, loops: [], fraction: null, left: null,
    metrics: [], last_line: '', waits_in: '', waits_since: 0, awaited: false, function: '', cpu: null, memory: null, gpu: null, gpu_memory: null,
    gpu_total: null, ...more
  };
}

export function shot(more: Partial<Snapshot> = {}): Snapshot {
  return {
    session: 'train', where: 'local, 2 ranks', state: 'ready', now: 110, run: 'a', run_state: 'running', cell: 3, began: 100,
    seconds: null, left: null, kernels: 1, lease: 1800, lease_left: null, failure: null, ranks: [row(0), row(1)], stall: '', stages: [], cost: null, ...more
  };
}

describe('changes of the stream', () => {
  const before = new Map<string, Known>([['train', { shot: shot(), at: 1 }]]);

  it('leave rows that have not changed as they are', () => {
    const patch: Patch = { train: { now: 111, ranks: { '1': row(1, { last_line: 'new' }) } } };
    const after = applied(before, patch, 2).get('train');
    expect(after?.shot.ranks[0]).toBe(before.get('train')?.shot.ranks[0]);
    expect(after?.shot.ranks[1]?.last_line).toBe('new');
    expect([after?.shot.now, after?.at]).toEqual([111, 2]);
  });

  it('bring new sessions whole, and take those away that are gone', () => {
    const after = applied(before, { other: shot({ session: 'other' }) as never, train: null }, 2);
    expect([...after.keys()]).toEqual(['other']);
  });

  it('of a session that is not known change nothing', () => {
    expect(applied(new Map(), { train: { now: 5 } }, 2).size).toBe(0);
  });
});

describe('the stream', () => {
  it('is put together from chunks that end anywhere', () => {
    const parser = new EventParser();
    expect([...'data: {"a":1}\n\n: alive\n\ndata: 2\n\nda'].flatMap(letter => parser.feed(letter))).toEqual(['{"a":1}', '2']);
  });

  it('says that there is no extension on a server that answers 404', async () => {
    const store = new Store(async () => new Response('', { status: 404 }));
    await new Promise<void>(resolve => store.listen(resolve));
    expect(store.link).toBe('missing');
  });

  it('ends with its last listener', async () => {
    let signal: AbortSignal | null = null;
    const store = new Store(given => {
      signal = given;
      return new Promise(() => {});
    });
    const stop = store.listen(() => {});
    stop();
    expect((signal as AbortSignal | null)?.aborted).toBe(true);
  });
});
