// What the browser knows of all sessions: the stream of the server's changes, folded into snapshots.

import type { Snapshot } from './protocol';

/** What the stream says of one session: everything of a new one, else what has changed; null when it is gone. */
export type Patch = { [name: string]: (Partial<Omit<Snapshot, 'ranks'>> & { ranks?: unknown }) | null };

export type Link = 'connecting' | 'live' | 'reconnecting' | 'missing';

/** A snapshot and the moment (performance.now) at which it came, for ages that go on between two of them. */
export interface Known {
  shot: Snapshot;
  at: number;
}

/** Apply a patch to what is known. Sessions and rows that have not changed stay the same objects. */
export function applied(before: ReadonlyMap<string, Known>, patch: Patch, at: number): Map<string, Known> {
  const after = new Map(before);
  for (const [name, change] of Object.entries(patch)) {
    if (change === null) {
      after.delete(name);
    } else if ('session' in change) {
      after.set(name, { shot: change as Snapshot, at });
    } else {
      const old = after.get(name);
      if (old) {
        const rows = (change.ranks ?? {}) as { [rank: string]: Snapshot['ranks'][number] };
        const ranks = change.ranks ? old.shot.ranks.map((row, index) => rows[index] ?? row) : old.shot.ranks;
        after.set(name, { shot: { ...old.shot, ...change, ranks } as Snapshot, at });
      }
    }
  }
  return after;
}

/** Messages of a stream of server-sent events, from chunks of its text. */
export class EventParser {
  private _rest = '';

  feed(text: string): string[] {
    const parts = (this._rest + text).split('\n\n');
    this._rest = parts.pop() ?? '';
    return parts.filter(part => part.startsWith('data: ')).map(part => part.slice(6));
  }
}

const RETRY_MS = 1000;

/** Follows the stream for as long as somebody listens, and tells listeners at most once a frame and ten times a second. */
export class Store {
  sessions: ReadonlyMap<string, Known> = new Map();
  link: Link = 'connecting';
  heard = performance.now();
  private _listeners = new Set<() => void>();
  private _abort: AbortController | null = null;
  private _due = false;
  private _last = 0;

  constructor(private readonly _open: (signal: AbortSignal) => Promise<Response>) {}

  /** Be told of changes. Returns how to end it; with nobody left the stream ends too. */
  listen(listener: () => void): () => void {
    this._listeners.add(listener);
    if (!this._abort) {
      this._abort = new AbortController();
      void this._follow(this._abort.signal);
    }
    return () => {
      this._listeners.delete(listener);
      if (!this._listeners.size) {
        this._abort?.abort();
        this._abort = null;
      }
    };
  }

  private async _follow(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        const response = await this._open(signal);
        if (response.status === 404) {
          this._set('missing');
          return;
        }
        if (!response.ok || !response.body) {
          throw new Error(`status ${response.status}`);
        }
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        const parser = new EventParser();
        let first = true;
        for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
          this.heard = performance.now();
          for (const message of parser.feed(chunk.value)) {
            this.sessions = applied(first ? new Map() : this.sessions, JSON.parse(message) as Patch, this.heard);
            first = false;
          }
          this._set('live');
        }
      } catch {
        if (signal.aborted) {
          return;
        }
      }
      this._set('reconnecting');
      await new Promise(resolve => setTimeout(resolve, RETRY_MS));
    }
  }

  private _set(link: Link): void {
    this.link = link;
    if (this._due) {
      return;
    }
    this._due = true;
    const wait = Math.max(0, this._last + 100 - performance.now());
    setTimeout(() => {
      this._due = false;
      this._last = performance.now();
      this._listeners.forEach(listener => listener());
    }, wait);
  }
}
