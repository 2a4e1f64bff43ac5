// The cell's output: drawn from the notebook's own data, and from the server's stream while that knows the run.

import type { IRenderMime } from '@jupyterlab/rendermime-interfaces';
import { Widget } from '@lumino/widgets';

import type { Api } from './api';
import { makeParts } from './parts';
import { MIME } from './protocol';
import { chosen, isSnapshot } from './snapshots';
import type { Known, Store } from './store';
import type { Translate } from './translate';
import { SessionView } from './view';

export class CellRenderer extends Widget implements IRenderMime.IRenderer {
  private _saved: Known | null = null;
  private _last: Known | null = null;
  private _stop: () => void;
  private _view: SessionView;

  constructor(
    private readonly _store: Store,
    api: Api,
    private readonly _trans: Translate
  ) {
    super();
    this.addClass('mm');
    this.node.setAttribute('role', 'article');
    this._view = new SessionView(this.node, api, _trans, makeParts);
    this._stop = _store.listen(() => this._update());
  }

  async renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    const data = model.data[MIME] as unknown;
    if (isSnapshot(data)) {
      this._saved = { shot: data, at: performance.now() };
      this.node.setAttribute('aria-label', this._trans.__('session %1', data.session));
    }
    this._update();
  }

  override dispose(): void {
    this._stop();
    this._view.dispose();
    super.dispose();
  }

  private _update(): void {
    const name = this._saved?.shot.session ?? '';
    const { known, fixed } = chosen(this._saved, this._store.sessions.get(name), this._last);
    if (!fixed) {
      this._last = known;
    }
    // Until the server has spoken, and where it has no extension, the kernel's own word is not old yet.
    const doubt = fixed && this._store.link === 'live' && this._saved?.shot.run_state === 'running';
    this._view.update({
      known,
      link: this._store.link,
      heard: this._store.heard,
      fixed: fixed && (doubt || this._saved?.shot.run_state !== 'running' || this._store.link === 'missing')
    });
  }
}

/** The factory of the renderer; it ranks before text/html. */
export function makeFactory(store: Store, api: Api, trans: Translate): IRenderMime.IRendererFactory {
  return { safe: true, mimeTypes: [MIME], defaultRank: -20, createRenderer: () => new CellRenderer(store, api, trans) };
}
