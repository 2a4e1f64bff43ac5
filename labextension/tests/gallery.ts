// The real views over snapshots that are given, for pictures and for checks of what is hard to bring about.

import { SessionView, type Content } from '../src/view';
import { SessionsPanel } from '../src/panel';
import type { Api, Log, Stacks } from '../src/api';
import type { Snapshot } from '../src/protocol';
import type { Store } from '../src/store';
import { makeParts } from '../src/parts';
import { english } from '../src/translate';
import { Widget } from '@lumino/widgets';

export interface Given {
  shot: Snapshot;
  log?: Log;
  stacks?: Stacks;
}

function apiOf({ log, stacks }: Given): Api {
  return {
    events: () => new Promise(() => {}),
    act: async () => true,
    log: async (_session, rank, after) => {
      const lines = (log?.lines ?? []).filter(line => rank === null || line[2] === rank);
      return { lines: after ? [] : lines, total: rank === null ? (log?.total ?? 0) : lines.length };
    },
    stacks: async () => stacks ?? {},
    band: async () => ({ steps: [], low: [], mean: [], high: [] })
  };
}

function content(given: Given): Content {
  return { known: { shot: given.shot, at: performance.now() }, link: 'live', heard: performance.now(), fixed: false };
}

/** Put the view of a cell into the page. */
function cell(host: HTMLElement, given: Given): SessionView {
  host.classList.add('mm');
  host.setAttribute('role', 'article');
  host.setAttribute('aria-label', given.shot.session);
  const view = new SessionView(host, apiOf(given), english, makeParts);
  view.update(content(given));
  return view;
}

/** Put the panel into the page. */
function panel(host: HTMLElement, all: Given[]): SessionsPanel {
  const sessions = new Map(all.map(given => [given.shot.session, { shot: given.shot, at: performance.now() }]));
  const store = { sessions, link: 'live', heard: performance.now(), listen: () => () => {} } as unknown as Store;
  const made = new SessionsPanel(store, apiOf(all[0]!), english, () => true);
  Widget.attach(made, host);
  return made;
}

Object.assign(window, { gallery: { cell, panel, content } });
