// The line that the panel's form stands for.

/** What a form asks for. */
export interface Wish {
  where: string;
  replicas: string;
  gpu: string;
  name: string;
}

/** The line that a form stands for: what is clicked is what could have been typed. */
export function lineOf(wish: Wish): string {
  const words = ['%modal_distributed', '--replicas', wish.replicas || '1'];
  if (wish.where === 'local') {
    words.push('--backend', 'local');
  } else if (wish.gpu) {
    words.push('--gpu', wish.gpu);
  }
  return [...words, ...(wish.name ? ['--session', wish.name] : [])].join(' ');
}
