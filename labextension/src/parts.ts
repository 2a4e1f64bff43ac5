// What the views of a cell and of the panel have beside the picture: logs, charts and stacks, asked of the server.

import { html } from 'lit-html';

import type { Api } from './api';
import { ManyRanks } from './many';
import { Metrics } from './metrics';
import { buttonsWithRestart, restarted } from './restart';
import { SearchedLog } from './search';
import { startUp } from './startup';
import type { Say } from './translate';
import { stackTree } from './tree';
import type { Parts } from './view';

export function makeParts(api: Api, say: Say, draw: () => void, show: (rank: number) => void): Parts {
  const log = new SearchedLog(api, say, draw);
  const metrics = new Metrics(api, say, draw);
  return {
    log,
    buttons: buttonsWithRestart,
    restarted,
    stackTree,
    startUp,
    many: new ManyRanks(say, draw, show),
    below: (shot, rank, width, choose) => html`${metrics.template(shot, rank, width)} ${log.section(shot, choose)}`
  };
}
