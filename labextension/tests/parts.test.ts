import { describe, expect, it } from 'vitest';

import type { Api, Stacks } from '../src/api';
import { spread, ticks } from '../src/chart';
import { extent, place, rankAt } from '../src/grid';
import { legendOf } from '../src/many';
import { Metrics } from '../src/metrics';
import { excerpts } from '../src/notices';
import { kindOf } from '../src/order';
import { lanes, longest } from '../src/startup';
import { english } from '../src/translate';
import { merged, ranges } from '../src/tree';
import { row, shot } from './store.test';

const at = (step: number) => ({ loops: [{ label: '', step, total: 100, rate: 1 }] });

describe('a chart', () => {
  it('has round numbers on its axes', () => {
    expect(ticks(1.79, 3.53, 4)).toEqual([2, 2.5, 3, 3.5]);
    expect(ticks(0, 884, 5)).toEqual([0, 200, 400, 600, 800]);
    expect(ticks(5, 5, 4)).toEqual([5]);
  });
  it('moves labels apart, and keeps them above its floor', () => {
    expect(spread([10, 11, 50], 13, 100)).toEqual([10, 23, 50]);
    expect(spread([98, 99, 100], 13, 100)).toEqual([74, 87, 100]);
  });
  it('of many ranks is asked for now and then, and once more when the run is over', () => {
    let asked = 0;
    const band = async () => (asked++, { steps: [], low: [], mean: [], high: [] });
    const metrics = new Metrics({ band } as unknown as Api, english.__, () => {});
    const ranks = Array.from({ length: 9 }, (_, rank) => row(rank, { metrics: [{ name: 'loss', value: 1, steps: [0], values: [1] }] }));
    for (const run_state of ['running', 'running', 'done', 'done']) {
      metrics.template(shot({ run_state, ranks }), null, 300);
    }
    expect(asked).toBe(2);
  });
});

describe('a square of the grid', () => {
  it('says how far its rank is behind, or what stops it', () => {
    const ranks = [row(0, at(10)), row(1, at(9)), row(2, at(1)), row(3, { ...at(9), waits_in: 'all_reduce #1' }), row(4, { ...at(9), awaited: true }), row(5, { state: 'lost' })];
    expect(ranks.map(each => kindOf(each, 10))).toEqual(['b0', 'b1', 'b3', 'wait', 'late', 'lost']);
    expect([...legendOf(ranks)]).toEqual([['b0', 1], ['b1', 1], ['b2', 0], ['b3', 1], ['late', 1], ['wait', 1], ['failed', 0], ['lost', 1]]);
  });
  it('is found where it lies', () => {
    for (const rank of [0, 31, 32, 517, 1023]) {
      const [x, y] = place(rank);
      expect(rankAt(x + 5, y + 5, 1024, 32)).toBe(rank);
    }
    expect(rankAt(0, 0, 1024, 32)).toBeNull();
    expect(extent(1024, 32)[0]).toBeLessThan(480);
  });
});

describe('a traceback', () => {
  it('folds the frames of libraries that stand together', () => {
    const text = 'Cell In[3], line 2\n----> 2 f()\n\nFile /x/site-packages/torch/nn/a.py:1, in f()\n---> 1 g()\n\nFile /x/lib/python3.11/json/b.py:2, in g()\n---> 2 h()\n\nValueError: no';
    expect(excerpts(text).map(part => [part.folded, part.library])).toEqual([[0, ''], [2, 'torch/nn'], [0, '']]);
    expect(excerpts(text)[2]?.text).toBe('ValueError: no');
  });
});

describe('stacks', () => {
  it('are one tree, in which a shared frame is told once', () => {
    const stack = (frames: [number, string][], collective = '') => ({ state: 'running', line: 1, collective, sequence: 7, seconds: 12, silent: '', frames: frames.map(([line, name]) => ({ where: 'cell', line, function: name })) });
    const stacks: Stacks = { '0': stack([[7, 'step'], [21, '<module>']], 'barrier'), '1': stack([[7, 'step'], [21, '<module>']], 'barrier'), '2': stack([[18, 'load'], [21, '<module>']]) };
    const root = merged(stacks, english.__);
    expect(root.calls.map(call => [call.text, call.ranks])).toEqual([['cell line 21', [0, 1, 2]]]);
    expect(root.calls[0]?.calls.map(call => [call.text, call.ranks])).toEqual([['step  cell line 7', [0, 1]], ['load  cell line 18', [2]]]);
    expect(root.calls[0]?.calls[0]?.calls[0]).toMatchObject({ text: 'in barrier #7', seconds: 12 });
  });
  it('name ranks in ranges', () => expect(ranges([0, 1, 2, 5, 7, 8])).toBe('0-2, 5, 7-8'));
});

describe('a start-up', () => {
  const stages = [
    { name: 'queue', node: 1, began: 100, seconds: 4 },
    { name: 'queue', node: 0, began: 100, seconds: 2 },
    { name: 'restore', node: 0, began: 102, seconds: null }
  ];
  it('has a lane for each node, and what goes on lasts until now', () => {
    const { seconds, nodes } = lanes(stages, 110);
    expect(seconds).toBe(10);
    expect(nodes.get(0)).toEqual([{ name: 'queue', from: 0, share: 0.2, seconds: 2 }, { name: 'restore', from: 0.2, share: 0.8, seconds: 8 }]);
    expect(longest(stages, 110)).toEqual([['queue', 4], ['restore', 8]]);
  });
});
