// What the views say in the reader's language: the part of JupyterLab's translator that they use.

export interface Translate {
  __(text: string, ...values: unknown[]): string;
}

export type Say = (text: string, ...values: unknown[]) => string;

/** English, for hosts without a translator. */
export const english: Translate = {
  __: (text, ...values) => text.replace(/%(\d)/g, (_, number) => String(values[Number(number) - 1]))
};

// Colours and other control sequences of a terminal; what is left of them would only be noise.
const CONTROL = /\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.?)|[\x00-\x08\x0b-\x1f\x7f-\x9f]/g;

/** A text of a rank without control characters. */
export function plain(text: string): string {
  return text.replace(CONTROL, '');
}
