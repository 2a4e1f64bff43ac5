// Builds the widget: one module and one style sheet, which travel from the kernel to the front end.

import { build } from 'esbuild';
import { readFile, writeFile } from 'node:fs/promises';

const path = 'modal_magic/static/widget';
const shared = { bundle: true, minify: true };
await build({ ...shared, entryPoints: ['labextension/style/standalone.css'], outfile: `${path}.css` });
await build({
  ...shared,
  entryPoints: ['labextension/src/widget.ts'],
  outfile: `${path}.js`,
  format: 'esm',
  mangleProps: /^_[a-z$]/
});
// What is left of line breaks with indentation stands in templates, where it is one space. Attributes of one word need
// no quotes there.
const code = await readFile(`${path}.js`, 'utf8');
await writeFile(`${path}.js`, code.replace(/\n +/g, ' ').replace(/(?<= (?:role|class|aria-\w+|tabindex)=)"([\w-]+)"(?=[ >])/g, '$1'));
