// What the views of a cell and of the panel have beside the picture: logs, charts and stacks, asked of the server.

import type { Api } from './api';
import { buttons } from './buttons';
import { LogPane } from './log';
import { ManyRanks } from './many';
import { Metrics } from './metrics';
import { startUp } from './startup';
import type { Say } from './translate';
import { stackTree } from './tree';
import type { Parts } from './view';

export function makeParts(api: Api, say: Say, draw: () => void, show: (rank: number) => void): Parts {
  return { log: new LogPane(api, say, draw), metrics: new Metrics(api, say, draw), many: new ManyRanks(say, draw, show), stackTree, startUp, buttons };
}
