// How long the start of a session took: a line with all stages, and a lane for each node.

import { html, nothing, type TemplateResult } from 'lit-html';

import * as format from './format';
import { icon } from './icons';
import type { Snapshot, Stage } from './protocol';
import type { Say } from './translate';

const LANES = 32;
/** The last stage is the first cell itself, whose rows tell of it. */
const CELL = 'first cell';

/** A stage on the time line of a start: where it begins and how long it takes, as shares of the whole. */
export interface Segment {
  name: string;
  from: number;
  share: number;
  seconds: number;
}

/** All stages as segments of one line, by node; -1 has those of no node. `now` ends what goes on. */
export function lanes(stages: readonly Stage[], now: number): { seconds: number; nodes: Map<number, Segment[]> } {
  const began = Math.min(...stages.map(stage => stage.began));
  const end = Math.max(...stages.map(stage => stage.began + (stage.seconds ?? now - stage.began)));
  const whole = Math.max(0.001, end - began);
  const nodes = new Map<number, Segment[]>();
  for (const stage of [...stages].sort((a, b) => a.began - b.began)) {
    const seconds = Math.max(0, stage.seconds ?? now - stage.began);
    const segment = { name: stage.name, from: (stage.began - began) / whole, share: seconds / whole, seconds };
    nodes.set(stage.node, [...(nodes.get(stage.node) ?? []), segment]);
  }
  return { seconds: whole, nodes };
}

/** The names of stages in their order, and of each the longest time that a node took. */
export function longest(stages: readonly Stage[], now: number): [string, number][] {
  const found = new Map<string, number>();
  for (const stage of [...stages].sort((a, b) => a.began - b.began)) {
    found.set(stage.name, Math.max(found.get(stage.name) ?? 0, stage.seconds ?? now - stage.began));
  }
  return [...found];
}

/** The line, which opens into the lanes. */
export function startUp(shot: Snapshot, now: number, open: boolean, toggle: () => void, say: Say): TemplateResult | typeof nothing {
  const stages = shot.stages.filter(stage => stage.name !== CELL);
  if (!stages.length) {
    return nothing;
  }
  const { seconds, nodes } = lanes(stages, now);
  const names = longest(stages, now);
  const look = (name: string) => `p${names.findIndex(([known]) => known === name) % 4}`;
  const bar = (segments: Segment[]) =>
    segments.map(
      ({ name, from, share }) =>
        html`<i class=${look(name)} style="left:${from * 100}%;width:max(1px,${share * 100}%)" title=${say(name)}></i>`
    );
  const marks = [0, 0.25, 0.5, 0.75];
  return html`<section class="start-up" aria-label=${say('start-up')}>
    <button class="start" aria-expanded=${open ? 'true' : 'false'} @click=${toggle}>
      ${icon(open ? 'down' : 'right')}<span>${say('Start-up')} <b>${format.duration(seconds)}</b></span>
      ${open ? nothing : html`<span class="seg">${bar([...nodes.values()].flat())}</span>`}
      ${names.map(([name, took]) => html`<span><i class="key ${look(name)}"></i>${say(name)} ${format.duration(took)}</span>`)}
    </button>
    ${open
      ? html`<div class="lanes">
          ${[...nodes].sort(([a], [b]) => a - b).slice(0, LANES).map(
            ([node, segments]) => html`<span>${node < 0 ? say('session') : say('node %1', node)}</span><div class="lane">${bar(segments)}</div>`
          )}
          <span></span>
          <div class="axis">${marks.map(mark => html`<span style="left:${mark * 100}%">${format.duration(mark * seconds)}</span>`)}</div>
          ${nodes.size > LANES ? html`<span></span><span>${say('%1 more nodes', nodes.size - LANES)}</span>` : nothing}
        </div>`
      : nothing}
  </section>`;
}
