// What the widget asks of its kernel. One that is busy with another cell hears it when that is over.

import type { Asks } from './api';
import type { Say } from './translate';

/** What is used of anywidget's model to ask (https://anywidget.dev, "AFM"). */
export interface Line {
  send(content: unknown): void;
  on(event: string, callback: (content: unknown) => void): void;
}

interface Answer {
  number: number;
  value?: unknown;
  error?: string;
}

const PATIENCE_MS = 2000;

/** Asks over the comm of a widget. A question without an answer fails with what can be done instead. */
export function askKernel(line: Line, say: Say): Asks {
  const waiting = new Map<number, (answer: Answer) => void>();
  let newest = 0;
  let reading = 0;
  line.on('msg:custom', content => {
    const answer = content as Answer;
    waiting.get(answer.number)?.(answer);
    waiting.delete(answer.number);
  });
  const ask = <T>(what: string, rest: object = {}) =>
    new Promise<T>((done, fail) => {
      const number = ++newest;
      waiting.set(number, ({ value, error }) => (error ? fail(new Error(error)) : done(value as T)));
      line.send({ number, what, ...rest });
      const late = say('The kernel is busy, and hears this when its cell is over. The interrupt of the notebook itself works at once.');
      setTimeout(() => fail(new Error(late)), PATIENCE_MS);
    });
  return {
    act: (_, action) => ask(action),
    stacks: () => ask('stacks'),
    log: (_, rank, after) => {
      if (waiting.has(reading)) {
        return Promise.reject(new Error()); // a kernel that does not hear is asked once
      }
      const answer = ask<never>('log', { rank, after });
      reading = newest;
      return answer;
    }
  };
}
