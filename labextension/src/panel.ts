// The side panel: all sessions of this server's user, the chosen one in full, and a form that writes a cell.

import { Message } from '@lumino/messaging';
import { Widget } from '@lumino/widgets';
import { html, nothing, render, type TemplateResult } from 'lit-html';
import { repeat } from 'lit-html/directives/repeat.js';

import type { Api } from './api';
import * as format from './format';
import { icon, LINK, PLUS } from './icons';
import { lineOf, type Wish } from './panel-line';
import { PanelView, type Unfolded } from './panel-view';
import { lookOfSession } from './states';
import type { Known, Store } from './store';
import type { Translate } from './translate';

/** What the panel shows by the reader's choice: it comes back when the page is loaded again. */
export interface Layout extends Unfolded {
  session: string | null;
  form: boolean;
}

export class SessionsPanel extends Widget {
  /** What is shown: what was chosen last, while that is there. */
  private _shown: string | null = null;
  private _chosen: string | null = null;
  private _form = false;
  private _said = '';
  private _stop: (() => void) | null = null;
  private _list = document.createElement('div');
  private _body = document.createElement('div');
  private _foot = document.createElement('div');
  private _view: PanelView;
  private _wish: Wish = { where: 'local', replicas: '4', gpu: '', name: '' };

  constructor(
    private readonly _store: Store,
    api: Api,
    private readonly _trans: Translate,
    private readonly _insert: (line: string) => boolean,
    private readonly _keep: (layout: Layout) => void = () => {}
  ) {
    super();
    this.id = 'modal-magic:sessions';
    this.addClass('mm');
    this.addClass('panel');
    this.title.caption = _trans.__('Distributed sessions');
    this._body.className = 'mm';
    this.node.append(this._list, this._body, this._foot);
    this._view = new PanelView(this._body, api, _trans, () => this._kept());
  }

  protected override onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this._begin();
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    if (this.isVisible) {
      this._begin();
    }
  }

  protected override onAfterHide(message: Message): void {
    super.onAfterHide(message);
    this._end();
  }

  override dispose(): void {
    this._end();
    this._view.dispose();
    super.dispose();
  }

  /** Show what was shown before the page was loaded again. */
  restore({ session, form, ...unfolded }: Layout): void {
    [this._chosen, this._form] = [session, form];
    this._view.unfold(unfolded);
    if (this._stop) {
      this._update();
    }
  }

  private _kept(): void {
    this._keep({ session: this._shown, form: this._form, ...this._view.unfolded });
  }

  private _begin(): void {
    this._stop ??= this._store.listen(() => this._update());
    this._update();
  }

  private _end(): void {
    this._stop?.();
    this._stop = null;
  }

  private _update(): void {
    const sessions = [...this._store.sessions.values()];
    const held = this.node.contains(document.activeElement) ? document.activeElement : null;
    if (this._chosen !== null && this._store.sessions.has(this._chosen)) {
      this._shown = this._chosen;
    } else if (this._shown === null || !this._store.sessions.has(this._shown)) {
      const running = sessions.find(({ shot }) => shot.run_state === 'running');
      this._shown = (running ?? sessions[0])?.shot.session ?? null;
    }
    render(this._sessions(sessions), this._list);
    render(this._footer(sessions.length === 0), this._foot);
    const known = this._shown === null ? null : (this._store.sessions.get(this._shown) ?? null);
    this._body.hidden = known === null;
    if (known) {
      this._view.update({ known, link: this._store.link, heard: this._store.heard, fixed: false });
    }
    if (held && !(held.isConnected && held.getClientRects().length)) {
      this._list.querySelector<HTMLElement>('[aria-selected="true"], .btn')?.focus(); // a session that had the focus is gone
    }
  }

  private _sessions(sessions: Known[]): TemplateResult {
    const __ = (text: string) => this._trans.__(text);
    return html`<h2>
        ${__('Sessions')} <span class="dim">${sessions.length || ''}</span>
        <span class="acts"
          ><button class="btn flat" aria-pressed=${this._form ? 'true' : 'false'} @click=${() => this._toggleForm()}>
            ${icon(PLUS)}${__('New')}
          </button></span
        >
      </h2>
      ${this._said ? html`<div class="note" role="status">${this._said}</div>` : nothing}
      ${this._store.link === 'missing'
        ? html`<p class="empty">
            ${__('This server has no modal_magic extension, so sessions cannot be listed. Output in cells works as text.')}
          </p>`
        : this._store.link === 'connecting'
          ? html`<p class="empty dim">${__('Connecting')}</p>`
          : sessions.length === 0
            ? html`<p class="empty">${this._trans.__('No sessions. A cell that starts with %1 makes one.', '%%modal_distributed')}</p>`
            : html`<div role="grid" aria-label=${__('sessions')} @keydown=${(event: KeyboardEvent) => this._key(event)}>
                ${repeat(
                  sessions,
                  ({ shot }) => shot.session,
                  known => this._session(known)
                )}
              </div>`}`;
  }

  private _session({ shot, at }: Known): TemplateResult {
    const __ = (text: string) => this._trans.__(text);
    const look = lookOfSession(shot);
    const chosen = shot.session === this._shown;
    const now = shot.now + (performance.now() - at) / 1000;
    const running = shot.run_state === 'running';
    const alone = shot.kernels === 0;
    const began = running ? shot.began : Math.max(0, ...shot.ranks.map(row => row.since));
    const lease =
      shot.lease_left !== null
        ? this._trans.__('ends in %1', format.age(shot.lease_left, true))
        : this._trans.__('lease %1', format.age(shot.lease, true));
    return html`<div
      class="ses ${chosen ? 'on' : ''} ${alone && running ? 'warnb' : ''}"
      role="row"
      aria-selected=${chosen ? 'true' : 'false'}
      tabindex=${chosen ? 0 : -1}
      data-session=${shot.session}
      @click=${() => this._choose(shot.session)}
    >
      ${icon(look.icon, look.tone)}<span class="l1 el" role="gridcell"><b>${shot.session}</b><span class="el">${__(look.word)}</span></span>
      <span role="gridcell">${began ? format.age(now - began, !running) : ''}</span>
      <span class="l2" role="gridcell">${shot.where}${shot.cost ? ` · ${format.dollars(shot.cost.hourly)}/h · ${format.dollars(shot.cost.spent)}` : ''}${shot.lease ? ` · ${lease}` : ''}</span>
      ${alone
        ? html`<span class="l3" role="gridcell"
            ><button class="btn" @click=${() => this._write(`%modal_attach ${shot.session}`)}>
              ${icon(LINK)}${this._trans.__('Attach')}</button
            ><button class="btn" @click=${() => this._askStop(shot.session)}>
              ${icon('stop', 'bad')}${this._trans.__('Stop')}
            </button></span
          >`
        : nothing}
    </div>`;
  }

  private _footer(empty: boolean): TemplateResult | typeof nothing {
    if (!this._form && !(empty && this._store.link === 'live')) {
      return nothing;
    }
    const __ = (text: string) => this._trans.__(text);
    const line = lineOf(this._wish);
    const field = (name: keyof Wish, label: string) =>
      html`<label
        >${label}<input
          class="inp"
          .value=${this._wish[name]}
          @input=${(event: InputEvent) => this._want({ [name]: (event.target as HTMLInputElement).value.trim() })}
      /></label>`;
    return html`<h2>${__('New session')}</h2>
      <div class="form">
        <label
          >${__('Where')}<select
            class="inp"
            @change=${(event: Event) => this._want({ where: (event.target as HTMLSelectElement).value })}
          >
            <option value="local" ?selected=${this._wish.where === 'local'}>${__('this machine')}</option>
            <option value="modal" ?selected=${this._wish.where === 'modal'}>Modal</option>
          </select></label
        >
        ${field('replicas', __('Replicas'))} ${this._wish.where === 'modal' ? field('gpu', 'GPU') : nothing}
        ${field('name', __('Name'))}
        <code class="line">${line}</code>
        <span class="go"><button class="btn pri" @click=${() => this._write(line)}>${__('Insert into notebook')}</button></span>
      </div>`;
  }

  private _want(change: Partial<Wish>): void {
    this._wish = { ...this._wish, ...change };
    this._update();
  }

  private _write(line: string): void {
    this._said = this._insert(line) ? '' : this._trans.__('No notebook is open to write this into: %1', line);
    this._update();
  }

  private _toggleForm(): void {
    this._form = !this._form;
    this._update();
    this._kept();
    if (this._form) {
      this._foot.querySelector<HTMLElement>('select')?.focus();
    }
  }

  private _choose(name: string): void {
    this._chosen = name;
    this._said = '';
    this._update();
    this._kept();
  }

  private _askStop(name: string): void {
    this._choose(name);
    this._view.ask('stop');
  }

  private _key(event: KeyboardEvent): void {
    const names = [...this._store.sessions.keys()];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && this._shown !== null) {
      const next = names[names.indexOf(this._shown) + step];
      if (next !== undefined) {
        this._choose(next);
        this._list.querySelector<HTMLElement>('[aria-selected="true"]')?.focus();
      }
      event.preventDefault();
    }
  }
}
