// Where all ranks are, as one tree: frames that ranks share are told once, with the ranks that are there.

import { html, type TemplateResult } from 'lit-html';

import type { Stack, Stacks } from './api';
import * as format from './format';
import type { Say } from './translate';

/** One frame, the ranks that are in it, and what these have called. */
export interface Branch {
  text: string;
  ranks: number[];
  seconds: number;
  calls: Branch[];
}

/** Merge stacks from the outside in; the collective in which a rank waits is its innermost frame. */
export function merged(stacks: Stacks, say: Say): Branch {
  const root: Branch = { text: '', ranks: [], seconds: 0, calls: [] };
  for (const [name, stack] of Object.entries(stacks)) {
    let at = root;
    root.ranks.push(Number(name));
    for (const text of told(stack, say)) {
      let next = at.calls.find(branch => branch.text === text);
      if (!next) {
        next = { text, ranks: [], seconds: 0, calls: [] };
        at.calls.push(next);
      }
      next.ranks.push(Number(name));
      at = next;
    }
    at.seconds = Math.max(at.seconds, stack.seconds);
  }
  return root;
}

function told(stack: Stack, say: Say): string[] {
  const frames = [...stack.frames].reverse().map(({ where, line, function: called }) => {
    const place = where === 'cell' ? say('cell line %1', line) : `${where.split('/').slice(-2).join('/')}:${line}`;
    return called === '<module>' ? place : `${called}  ${place}`;
  });
  if (stack.collective) {
    frames.push(say('in %1', `${stack.collective}${stack.sequence ? ` #${stack.sequence}` : ''}`));
  } else if (stack.silent) {
    frames.push(stack.silent);
  }
  return frames.length ? frames : [say('between cells')];
}

/** `0-2, 5`. */
export function ranges(ranks: readonly number[]): string {
  const parts: string[] = [];
  for (let at = 0; at < ranks.length; at++) {
    let end = at;
    while (ranks[end + 1] === (ranks[end] ?? 0) + 1) {
      end++;
    }
    parts.push(end > at ? `${ranks[at]}-${ranks[end]}` : `${ranks[at]}`);
    at = end;
  }
  return parts.join(', ');
}

function lines(branch: Branch, before: string, depth: number, last: boolean, say: Say): TemplateResult[] {
  const corner = depth === 0 ? '' : last ? '└─ ' : '├─ ';
  const below = depth === 0 ? '' : before + (last ? '   ' : '│  ');
  return [
    html`<div class="fr" role="treeitem" aria-level=${depth + 1}>
      <span class="el" title=${ranges(branch.ranks)}>${ranges(branch.ranks)}</span>
      <span class="code" title=${branch.text}><span aria-hidden="true">${before}${corner}</span>${branch.text}</span>
      <span class="dim">${branch.calls.length === 0 && branch.seconds >= 1 ? say('for %1', format.age(branch.seconds, false)) : ''}</span>
    </div>`,
    ...branch.calls.flatMap((call, index) => lines(call, below, depth + 1, index === branch.calls.length - 1, say))
  ];
}

/** The stacks of all ranks, merged; they were `taken` so many seconds ago. */
export function stackTree(stacks: Stacks, taken: number, say: Say): TemplateResult {
  const root = merged(stacks, say);
  return html`<section class="tree">
    <div class="what">${say('Stacks of %1 ranks, merged, as of %2 ago', format.count(root.ranks.length), format.age(taken, false))}</div>
    <div role="tree" aria-label=${say('stacks')}>
      ${root.calls.flatMap(branch => lines(branch, '', 0, true, say))}
    </div>
  </section>`;
}
