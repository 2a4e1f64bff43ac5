import { describe, expect, it } from 'vitest';

import { age, count, dollars, duration, rate, value } from '../src/format';

describe('numbers read as they do in Python', () => {
  it.each([
    [0, '0.0 s'],
    [0.44, '0.4 s'],
    [12.3, '12 s'],
    [59.6, '1:00'],
    [139, '2:19'],
    [6067, '1:41:07'],
    [null, '–']
  ])('duration %s', (seconds, told) => expect(duration(seconds)).toBe(told));

  it.each([
    [6.62, '6.6'],
    [31.4, '31'],
    [0, '0'],
    [null, '–'],
    [0.05, '20 s/step'],
    [1234.5, '1,235']
  ])('rate %s', (perSecond, told) => expect(rate(perSecond)).toBe(told));

  it.each([
    [1.84234, '1.842'],
    [1.38, '1.380'],
    [118402.2, '118,402'],
    [7, '7'],
    [2.91e-4, '2.910e-4'],
    [null, '–'],
    [Infinity, '–']
  ])('value %s', (number, told) => expect(value(number)).toBe(told));

  it('dollars have cents below a hundred', () => expect([dollars(0.374), dollars(4045.2)]).toEqual(['$0.37', '$4,045']));
  it('counts group their digits', () => expect([count(4000), count(0.5)]).toEqual(['4,000', '0.5']));
  it('ages of what rests are minutes', () => expect([age(245, true), age(245, false), age(4, true)]).toEqual(['4 min', '4:05', '4 s']));
});
