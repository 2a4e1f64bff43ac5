// What JupyterLab and Notebook load: the renderer of cells, the side panel, its commands, and the status bar's item.

import { ILayoutRestorer, JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { INotebookTracker, NotebookActions } from '@jupyterlab/notebook';
import { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStateDB } from '@jupyterlab/statedb';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { LabIcon } from '@jupyterlab/ui-components';
import { Widget } from '@lumino/widgets';

import { makeApi } from './api';
import { SessionsPanel, type Layout } from './panel';
import { makeFactory } from './renderer';
import { Store } from './store';
import type { Translate } from './translate';

const OPEN = 'modal-magic:open';
const INTERRUPT = 'modal-magic:interrupt-all';

const panelIcon = new LabIcon({
  name: 'modal-magic:sessions',
  svgstr:
    '<svg xmlns="http://www.w3.org/2000/svg" width="16" height="16" viewBox="0 0 12 12"><g class="jp-icon3" fill="#616161"><circle cx="2" cy="2" r="1.9"/><circle cx="10" cy="2" r="1.9"/><circle cx="2" cy="10" r="1.9"/><circle cx="10" cy="10" r="1.9"/></g><path class="jp-icon3" fill="#616161" d="M1.5 1.5h9v9h-9zm1 1v7h7v-7z" fill-rule="evenodd"/></svg>'
});

const plugin: JupyterFrontEndPlugin<void> = {
  id: 'modal-magic:plugin',
  description: 'Live views of the sessions of modal_magic.',
  autoStart: true,
  requires: [IRenderMimeRegistry],
  optional: [INotebookTracker, ICommandPalette, ILayoutRestorer, ISettingRegistry, IStatusBar, ITranslator, IStateDB],
  activate: (
    app: JupyterFrontEnd,
    rendermime: IRenderMimeRegistry,
    notebooks: INotebookTracker | null,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null,
    settings: ISettingRegistry | null,
    statusBar: IStatusBar | null,
    translator: ITranslator | null,
    state: IStateDB | null
  ) => {
    const trans = (translator ?? nullTranslator).load('modal_magic');
    const api = makeApi(app.serviceManager.serverSettings);
    const store = new Store(signal => api.events(signal));
    rendermime.addFactory(makeFactory(store, api, trans));

    const insert = (line: string): boolean => {
      const notebook = notebooks?.currentWidget?.content;
      if (!notebook) {
        return false;
      }
      NotebookActions.insertBelow(notebook);
      notebook.activeCell?.model.sharedModel.setSource(line);
      app.shell.activateById(notebooks.currentWidget!.id); // Shift+Enter runs it
      return true;
    };
    const panel = new SessionsPanel(store, api, trans, insert, layout => void state?.save(panel.id, { ...layout }));
    void state?.fetch(panel.id).then(layout => layout && panel.restore(layout as unknown as Layout));
    panel.title.icon = panelIcon;
    app.shell.add(panel, 'left', { rank: 300, type: 'Distributed sessions' });
    restorer?.add(panel, panel.id);

    const category = trans.__('Distributed sessions');
    app.commands.addCommand(OPEN, {
      label: trans.__('Show distributed sessions'),
      icon: panelIcon,
      execute: () => app.shell.activateById(panel.id),
      describedBy: { args: { type: 'object', properties: {} } }
    });
    app.commands.addCommand(INTERRUPT, {
      label: trans.__('Interrupt the runs of all distributed sessions'),
      execute: () =>
        Promise.allSettled(
          [...store.sessions.values()]
            .filter(({ shot }) => shot.run_state === 'running')
            .map(({ shot }) => api.act(shot.session, 'interrupt', null))
        ),
      describedBy: { args: { type: 'object', properties: {} } }
    });
    [OPEN, INTERRUPT].forEach(command => palette?.addItem({ command, category }));

    if (statusBar) {
      let hide: (() => void) | null = null;
      const apply = (wanted: boolean) => {
        if (wanted && !hide) {
          hide = showRunning(statusBar, store, trans, () => void app.commands.execute(OPEN));
        } else if (!wanted) {
          hide?.();
          hide = null;
        }
      };
      void settings
        ?.load('modal-magic:plugin')
        .then(loaded => {
          const read = () => apply(loaded.get('statusBar').composite !== false);
          loaded.changed.connect(read);
          read();
        })
        .catch(() => apply(true));
    }
  }
};

/** The status bar's item, until what is returned is called: taken out, an item is gone for good. */
function showRunning(bar: IStatusBar, store: Store, trans: Translate, open: () => void): () => void {
  const item = new Widget({ node: document.createElement('button') });
  const show = () => {
    const running = [...store.sessions.values()].filter(({ shot }) => shot.run_state === 'running').length;
    item.node.textContent = running ? trans.__('Distributed: %1 running', running) : '';
    item.setHidden(!running);
  };
  item.addClass('mm-status');
  item.node.title = trans.__('Distributed sessions with a run in progress');
  item.node.addEventListener('click', open);
  const shown = bar.registerStatusItem('modal-magic:running', { item, align: 'left', rank: 40, isActive: () => item.node.textContent !== '' });
  const stop = store.listen(show);
  show();
  return () => {
    stop();
    shown.dispose();
  };
}

export default plugin;
