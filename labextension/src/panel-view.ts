// The view of the session that the panel shows: what is opened in it is remembered.

import type { Api } from './api';
import type { Question } from './buttons';
import { makeParts } from './parts';
import type { Translate } from './translate';
import { QUESTION, SessionView, type Content } from './view';

/** What a reader has opened. */
export interface Unfolded {
  rank: number | null;
  startUp: boolean;
}

export class PanelView extends SessionView<Api> {
  constructor(
    host: HTMLElement,
    api: Api,
    trans: Translate,
    private readonly _keep: () => void
  ) {
    super(host, api, trans, makeParts, true);
  }

  get unfolded(): Unfolded {
    return { rank: this._log?.rank ?? null, startUp: this._startUp };
  }

  unfold({ rank, startUp }: Unfolded): void {
    this._startUp = startUp;
    this._focused = rank ?? 0;
    this._log?.show(rank);
  }

  override update(content: Content): void {
    if ((this._log?.rank ?? 0) >= (content.known?.shot.ranks.length ?? Infinity)) {
      this._log?.show(null); // the rank that was chosen in a larger session
    }
    super.update(content);
  }

  /** Ask about something that loses variables, as its button does. */
  ask(question: Question): void {
    this._ask(question);
    this.host.querySelector<HTMLElement>(QUESTION)?.focus();
  }

  protected override _opened(): void {
    super._opened();
    this._keep();
  }
}
