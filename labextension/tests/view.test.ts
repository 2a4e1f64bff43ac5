import { afterEach, describe, expect, it } from 'vitest';

import type { Api } from '../src/api';
import { place } from '../src/grid';
import { matches } from '../src/many';
import { slowestFirst } from '../src/order';
import { makeParts } from '../src/parts';
import { lineOf } from '../src/panel-line';
import { chosen, isSnapshot } from '../src/snapshots';
import { path } from '../src/rows';
import { english as trans, plain } from '../src/translate';
import { SessionView, type Content } from '../src/view';
import { row, shot } from './store.test';

// What has no size is not painted, and jsdom gives nothing a size.
HTMLElement.prototype.getClientRects = () => [{}] as unknown as DOMRectList;

const views: SessionView[] = [];
afterEach(() => views.splice(0).forEach(view => view.dispose()));

const api = { log: async () => ({ lines: [], total: 0 }) } as unknown as Api;

function drawn(content: Partial<Content> & { shot?: Parameters<typeof shot>[0] } = {}): HTMLElement {
  const host = document.createElement('div');
  document.body.append(host);
  const view = new SessionView(host, api, trans, makeParts);
  views.push(view);
  view.update({ known: { shot: shot(content.shot), at: performance.now() }, link: 'live', heard: 0, fixed: true, ...content });
  return host;
}

const HOSTILE = '<script>window.hit=1</script><img src=x onerror="window.hit=1">\x1b]0;t\x07\x1b[31m';

describe('a view', () => {
  it('has a row for each rank, with its state as a word', () => {
    const host = drawn({ shot: { ranks: [row(0), row(1, { state: 'failed', line: 10 })] } });
    expect([...host.querySelectorAll('.row')].map(each => each.querySelector('.g-st')?.textContent?.trim())).toEqual(['Running10 s', 'Failedline 10']);
  });

  it('lists a thousand ranks in the panel when the list is opened', () => {
    const host = document.createElement('div');
    document.body.append(host);
    const view = new SessionView(host, api, trans, makeParts, true);
    views.push(view);
    view.update({ known: { shot: shot({ ranks: Array.from({ length: 1000 }, (_, rank) => row(rank)) }), at: 0 }, link: 'live', heard: 0, fixed: false });
    const list = host.querySelector('select[aria-label="Log of"]');
    expect(list?.children.length).toBe(1);
    list?.dispatchEvent(new Event('focus'));
    expect(list?.children.length).toBe(1001);
  });

  it('shows what ranks write as text', () => {
    const failure = { rank: 0, title: HOSTILE, text: HOSTILE, others: HOSTILE, advice: HOSTILE };
    const metrics = [{ name: HOSTILE, value: 1, steps: [0], values: [1] }];
    const host = drawn({ shot: { session: HOSTILE, failure, stall: HOSTILE, ranks: [row(0, { last_line: HOSTILE, state: HOSTILE, metrics, waits_in: HOSTILE })] } });
    expect(host.querySelector('script, img')).toBeNull();
    expect((window as unknown as { hit?: number }).hit).toBeUndefined();
    expect(host.textContent).toContain('<script>');
  });

  it('leaves out columns that nothing fills', () => {
    expect(drawn().querySelector('.g-bar, .g-loss')).toBeNull();
    const loops = [{ label: '', step: 5, total: 10, rate: 2 }];
    const host = drawn({ shot: { ranks: [row(0, { loops, fraction: 0.5, left: 2.5 })] } });
    expect(host.querySelector('[role=progressbar][aria-label="rank 0"]')?.getAttribute('aria-valuenow')).toBe('50');
    expect(host.querySelector('.row .g-left')?.textContent).toBe('2.5 s');
  });

  it('names the loops of a rank, and shows the numbers that have no column', () => {
    const loops = [{ label: 'my epoch', step: 1, total: 3, rate: 0.1 }, { label: 'batch', step: 12, total: 30, rate: 5 }];
    const metrics = ['acc', 'loss', 'lr'].map((name, index) => ({ name, value: index / 4, steps: [0], values: [index / 4] }));
    const host = drawn({ shot: { ranks: [row(0, { loops, metrics, last_line: 'saved' }), row(1)] } });
    const cells = [...host.querySelectorAll('.row')].map(each => each.querySelector('.g-last')?.textContent?.trim());
    expect(cells).toEqual(['my epoch 1 / 3 › batch · acc 0 · lr 0.5000 saved', '']);
    expect(host.querySelector('.row .g-step')?.getAttribute('title')).toBe('my epoch 1 / 3 › batch 12 / 30');
    expect(host.querySelector('.row .g-step')?.textContent?.trim()).toBe('12 / 30');
  });

  it('marks the rank that the others wait for', () => {
    const host = drawn({ shot: { stall: 'rank 0 waits', ranks: [row(0, { waits_in: 'all_reduce #77' }), row(1, { awaited: true, line: 18 })] } });
    expect([...host.querySelectorAll('.row .g-st')].map(each => each.textContent?.trim())).toEqual(['all_reduce #77', 'Stragglerline 18']);
    expect(host.querySelector('[role=status] .what')?.textContent).toContain('Rank 0 waits');
  });

  it('shows what ranks use, and of memory that of the GPU where there is one', () => {
    const used = { cpu: 62, memory: 1.5 * 1024 ** 3 };
    expect(drawn({ shot: { ranks: [row(0, used)] } }).querySelector('.row .g-mem')?.textContent?.trim()).toBe('1.5 G');
    const gpu = { gpu: 94, gpu_memory: 31.2 * 1024 ** 3, gpu_total: 40 * 1024 ** 3 };
    const host = drawn({ shot: { ranks: [row(0, { ...used, ...gpu }), row(1)] } });
    expect([...host.querySelectorAll('.row [role=meter]')].map(each => `${each.getAttribute('aria-label')} ${each.textContent?.trim()} ${each.getAttribute('aria-valuenow')}`)).toEqual(['CPU 62 % 62', 'GPU 94 % 94', 'GPU mem 31.2 G 78']);
    expect(host.querySelectorAll('.row')[1]?.querySelector('.g-gpu')?.textContent?.trim()).toBe('–');
  });

  it('says what a session costs, where that is known', () => {
    expect(drawn().textContent).not.toContain('cost');
    const host = drawn({ shot: { cost: { hourly: 9.92, spent: 0.374, date: '2026-11-01', at_most: false } } });
    expect(host.querySelector('.facts')?.textContent?.replace(/\s+/g, ' ')).toContain('cost $0.37 at $9.92/h');
  });

  it('draws a thousand ranks with a few elements', () => {
    const host = drawn({ shot: { ranks: Array.from({ length: 1024 }, (_, rank) => row(rank)) } });
    expect(host.querySelector('canvas')?.getAttribute('aria-label')).toBe('1024 ranks: 1024 Running');
    expect(host.querySelectorAll('.vr').length).toBeLessThan(20);
  });

  it('moves between rows by the keyboard', () => {
    const host = drawn();
    const rows = () => [...host.querySelectorAll<HTMLElement>('.row')];
    rows()[0]?.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowDown', bubbles: true }));
    expect(rows().map(each => each.tabIndex)).toEqual([-1, 0]);
  });
});

describe('what a notebook holds', () => {
  const saved = { shot: shot(), at: 0 };
  it('is replaced by what the server says of the same run', () => {
    const served = { shot: shot({ now: 200 }), at: 1 };
    expect(chosen(saved, served, null)).toEqual({ known: served, fixed: false });
  });
  it('stays where the server knows another run', () => {
    expect(chosen(saved, { shot: shot({ run: 'b' }), at: 1 }, null)).toEqual({ known: saved, fixed: true });
  });
  it('can be anything', () => {
    for (const data of [null, 3, 'x', {}, { session: 'a', run: 'b', now: 1, ranks: [null] }, { session: 'a', run: 'b', now: 1, ranks: 3 }]) {
      expect(isSnapshot(data)).toBe(false);
    }
    expect(isSnapshot(shot())).toBe(true);
  });
});

describe('many ranks', () => {
  const at = (step: number) => ({ loops: [{ label: '', step, total: 100, rate: 1 }] });
  it('lie 32 to a line with wider gaps after eight', () => {
    expect([place(0), place(7), place(8), place(32), place(256)]).toEqual([[40, 18], [131, 18], [148, 18], [40, 31], [40, 126]]);
  });
  it('are listed by who needs a person, then by who is behind', () => {
    const ranks = [row(0, at(90)), row(1, at(10)), row(2, { state: 'failed', ...at(50) }), row(3, { awaited: true, ...at(20) })];
    expect(slowestFirst(ranks).map(each => each.rank)).toEqual([2, 3, 1, 0]);
  });
  it('are found by rank, range and node', () => {
    expect([matches(row(5), '5'), matches(row(5), '4-6'), matches(row(5), 'n5'), matches(row(5), '6')]).toEqual([true, true, true, false]);
  });
});

describe('small things', () => {
  it('a course fills its box', () => {
    expect(path([3, 2, 1], 1, 3)).toEqual([[0, 1], [28, 7.8], [56, 14.5]]);
    expect(path([NaN, 5], 5, 5)).toEqual([[56, 8]]);
  });
  it('control sequences are not shown', () => expect(plain('\x1b[31mred\x1b[0m \x1b]0;title\x07end\x00')).toBe('red end'));
  it('a form is a line that could have been typed', () => {
    expect(lineOf({ where: 'modal', replicas: '4', gpu: 'A100', name: 'eval' })).toBe('%modal_distributed --replicas 4 --gpu A100 --session eval');
    expect(lineOf({ where: 'local', replicas: '', gpu: 'A100', name: '' })).toBe('%modal_distributed --replicas 1 --backend local');
  });
});
