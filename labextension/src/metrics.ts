// The charts of the panel: one metric over its steps, chosen among those that ranks report.

import { html, nothing, type TemplateResult } from 'lit-html';

import type { Api, Band } from './api';
import { chart, LINES, type Course } from './chart';
import type { RankRow, Snapshot } from './protocol';
import { columnsOf } from './rows';
import type { Say } from './translate';

const BAND_MS = 2000;

export class Metrics {
  private _chosen: string | null = null;
  private _band: Band | null = null;
  private _of = '';
  private _askedOf = '';
  private _asked = -Infinity;

  constructor(
    private readonly _api: Api,
    private readonly _say: Say,
    private readonly _draw: () => void
  ) {}

  template(shot: Snapshot, picked: number | null, width: number): TemplateResult | typeof nothing {
    const names = [...new Set(shot.ranks.flatMap(row => row.metrics.map(metric => metric.name)))].sort();
    const name = columnsOf(shot, this._chosen).metric;
    if (name === null) {
      return nothing;
    }
    const few = shot.ranks.length <= LINES;
    if (!few) {
      void this._ask(shot, name);
    }
    const rows = few ? shot.ranks : shot.ranks.filter(row => row.rank === picked);
    const courses = rows.map(row => courseOf(row, name)).filter(course => course !== null);
    return html`<h2>
        ${this._say('Metrics')}
        <span class="acts"
          ><select
            class="inp flat"
            aria-label=${this._say('metric')}
            @change=${(event: Event) => {
              this._chosen = (event.target as HTMLSelectElement).value;
              this._draw();
            }}
          >
            ${names.map(each => html`<option value=${each} ?selected=${each === name}>${each}</option>`)}
          </select></span
        >
      </h2>
      ${chart(name, courses, few || this._of !== `${shot.run} ${name}` ? null : this._band, shot.ranks.length, Math.max(240, width - 20), this._say)}`;
  }

  /** Of many ranks the server makes a band, every two seconds while the run goes on, and once more when it is over. */
  private async _ask(shot: Snapshot, name: string): Promise<void> {
    const of = `${shot.run} ${name}`;
    const asked = `${of} ${shot.run_state}`;
    const fresh = this._askedOf === asked && (shot.run_state !== 'running' || performance.now() - this._asked < BAND_MS);
    if (fresh) {
      return;
    }
    [this._of, this._askedOf, this._asked] = [of, asked, performance.now()];
    const answer = await this._api.band(shot.session, name).catch(() => null);
    if (answer && this._of === of) {
      this._band = answer;
      this._draw();
    }
  }
}

function courseOf(row: RankRow, name: string): Course | null {
  const metric = row.metrics.find(each => each.name === name);
  return metric && metric.values.length ? { rank: row.rank, steps: metric.steps, values: metric.values } : null;
}
