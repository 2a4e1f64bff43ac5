// The server's routes, through JupyterLab's own connection: token, XSRF and base URL are its affair.

import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';

export type Action = 'interrupt' | 'restart' | 'stop';

/** Number, seconds since the run began where that is known, rank, stream, text. */
export type LogLine = [number, number | null, number, string, string];

export interface Log {
  lines: LogLine[];
  total: number;
}

export interface Frame {
  where: string;
  line: number;
  function: string;
}

export interface Stack {
  state: string;
  line: number;
  collective: string;
  sequence: number;
  seconds: number;
  silent: string;
  frames: Frame[];
}

export type Stacks = { [rank: string]: Stack };

/** A metric of many ranks: at each step the lowest, the mean and the highest value. */
export interface Band {
  steps: number[];
  low: (number | null)[];
  mean: (number | null)[];
  high: (number | null)[];
}

/** What the view of one session asks. */
export interface Asks {
  /** Of one rank or of all (null). True where it is done; else it is asked. */
  act(session: string, action: Action, rank: number | null): Promise<unknown>;
  log(session: string, rank: number | null, after: number): Promise<Log>;
  stacks(session: string): Promise<Stacks>;
}

export interface Api extends Asks {
  events(signal: AbortSignal): Promise<Response>;
  band(session: string, metric: string): Promise<Band>;
}

/** The routes of the Jupyter server that this page came from. */
export function makeApi(settings: ServerConnection.ISettings): Api {
  const request = (path: string, init: RequestInit) =>
    ServerConnection.makeRequest(URLExt.join(settings.baseUrl, 'modal-magic/api', path), init, settings);
  const checked = async (path: string, init: RequestInit) => {
    const response = await request(path, init);
    if (!response.ok) {
      throw await ServerConnection.ResponseError.create(response);
    }
    return response.json();
  };
  const of = (session: string) => `sessions/${encodeURIComponent(session)}`;
  return {
    events: signal => request('events', { signal, cache: 'no-store' }),
    act: async (session, action, rank) => {
      const answer = await checked(`${of(session)}/${action}${rank === null ? '' : `?rank=${rank}`}`, { method: 'POST' });
      return answer.done === true;
    },
    log: (session, rank, after) =>
      checked(`${of(session)}/log?after=${after}${rank === null ? '' : `&rank=${rank}`}`, {}),
    band: (session, metric) => checked(`${of(session)}/band?metric=${encodeURIComponent(metric)}`, {}),
    stacks: session => checked(`${of(session)}/stacks`, { method: 'POST' })
  };
}
