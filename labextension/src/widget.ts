// The view as an anywidget, for front ends without our extension: it draws what the kernel tells, and asks the kernel.

import { buttons } from './buttons';
import { askKernel, type Line } from './comm';
import { LogPane } from './log';
import { isSnapshot } from './snapshots';
import { english } from './translate';
import { stackTree } from './tree';
import { SessionView } from './view';

/** What is used of anywidget's model (https://anywidget.dev, "AFM"). */
interface Model extends Line {
  get(name: string): unknown;
  off(event: string, callback: () => void): void;
}

/** Whether the page is dark: VS Code and Colab say so, of others the system does. */
function isDark(): boolean {
  const { classList } = document.body;
  const theme = document.documentElement.getAttribute('theme');
  if (classList.contains('vscode-light') || theme === 'light') {
    return false;
  }
  return classList.contains('vscode-dark') || theme === 'dark' || matchMedia('(prefers-color-scheme: dark)').matches;
}

function render({ model, el }: { model: Model; el: HTMLElement }): () => void {
  const outer = el.appendChild(document.createElement('div'));
  outer.className = 'mm-alone';
  outer.dataset['jpThemeLight'] = String(!isDark());
  const host = outer.appendChild(document.createElement('div'));
  host.className = 'mm';
  host.setAttribute('role', 'article');
  const asks = askKernel(model, english.__);
  const view = new SessionView(host, asks, english, (_, say, draw) => ({ log: new LogPane(asks, say, draw), buttons, stackTree }));
  const update = () => {
    const shot = model.get('shot');
    if (isSnapshot(shot)) {
      host.setAttribute('aria-label', shot.session);
      view.update({ known: { shot, at: performance.now() }, link: 'live', heard: performance.now(), fixed: false });
    }
  };
  model.on('change:shot', update);
  update();
  return () => {
    model.off('change:shot', update);
    view.dispose();
  };
}

export default { render };
