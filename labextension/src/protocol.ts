// Made from modal_magic/view/snapshot.py by `python -m tests.support.typescript`; do not edit.

export const MIME = 'application/vnd.modal-magic.session+json';

/** A session with its newest run, at `now` by the session's clock in seconds since 1970. */
export interface Snapshot {
  session: string;
  where: string;
  state: string;
  now: number;
  run: string;
  run_state: string;
  cell: number;
  began: number;
  seconds: number | null;
  left: number | null;
  kernels: number;
  lease: number;
  lease_left: number | null;
  failure: Failure | null;
  ranks: RankRow[];
  stall: string;
  stages: Stage[];
  cost: Cost | null;
}

/** Why a run failed. `text` is the traceback without colours, `others` says what became of the other ranks. */
export interface Failure {
  rank: number;
  title: string;
  text: string;
  others: string;
  advice: string;
}

/** One rank. Times are seconds since 1970 by the clock of the session; `line` is a line of the cell, 0 for none. */
export interface RankRow {
  rank: number;
  node: number;
  pid: number;
  state: string;
  since: number;
  seconds: number | null;
  line: number;
  loops: Loop[];
  fraction: number | null;
  left: number | null;
  metrics: Metric[];
  last_line: string;
  waits_in: string;
  waits_since: number;
  awaited: boolean;
  function: string;
  cpu: number | null;
  memory: number | null;
  gpu: number | null;
  gpu_memory: number | null;
  gpu_total: number | null;
}

/** A stage of the session's start: `seconds` is None while it goes on, `node` is -1 where no node is meant. */
export interface Stage {
  name: string;
  node: number;
  began: number;
  seconds: number | null;
}

/** What a session costs, in dollars: an hour, of the containers that are up now, and since its start. */
export interface Cost {
  hourly: number;
  spent: number;
  date: string;
  at_most: boolean;
}

/** One loop of a rank: `step` of `total` (None: unknown), `rate` in steps a second. */
export interface Loop {
  label: string;
  step: number;
  total: number | null;
  rate: number | null;
}

/** A metric of a rank: its newest value, and its course as steps and values, oldest first. */
export interface Metric {
  name: string;
  value: number;
  steps: number[];
  values: number[];
}
