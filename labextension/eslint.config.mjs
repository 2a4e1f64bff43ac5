import tseslint from 'typescript-eslint';

export default tseslint.config(
  { ignores: ['**/lib/**'] },
  ...tseslint.configs.recommended,
  { rules: { eqeqeq: 'error', 'no-restricted-syntax': ['error', { selector: 'MemberExpression[property.name=/^(innerHTML|outerHTML)$/]', message: 'text of ranks is never markup' }] } }
);
