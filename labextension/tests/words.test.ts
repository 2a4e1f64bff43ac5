import { readdirSync, readFileSync } from 'node:fs';

import * as ts from 'typescript';
import { describe, expect, it } from 'vitest';

const SOURCES = `${process.cwd()}/labextension/src`;
const TEXT = /[A-Za-z]{2}/;
const TOLD = /(aria-label|aria-valuetext|title|placeholder)="[^"]*[A-Za-z]{2}[^"]*"/g;
/** What is the same in every language. */
const NAMES = ['CPU', 'GPU', 'Modal'];

/** Words of the templates of a file that no translator has seen: between tags, and in attributes that are read out. */
function untranslated(file: string): string[] {
  const found: string[] = [];
  const visit = (node: ts.Node) => {
    if (ts.isTaggedTemplateExpression(node) && node.tag.getText() === 'html') {
      const parts = ts.isNoSubstitutionTemplateLiteral(node.template)
        ? [node.template.text]
        : [node.template.head.text, ...node.template.templateSpans.map(span => span.literal.text)];
      const markup = parts.join('\0');
      found.push(...(markup.match(TOLD) ?? []));
      const words = markup.replace(/<!--.*?-->|<[^>]*>/gs, '\n').split('\n').map(text => text.replaceAll('\0', ' ').trim());
      found.push(...words.filter(text => TEXT.test(text) && !NAMES.includes(text)));
    }
    ts.forEachChild(node, visit);
  };
  visit(ts.createSourceFile(file, readFileSync(`${SOURCES}/${file}`, 'utf8'), ts.ScriptTarget.Latest, true));
  return found.map(text => `${file}: ${text}`);
}

describe('the views', () => {
  it('say nothing that cannot be translated', () => {
    expect(readdirSync(SOURCES).flatMap(untranslated)).toEqual([]);
  });
});
