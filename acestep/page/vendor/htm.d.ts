declare const htm: {
  bind(h: (...parts: never[]) => unknown): (strings: TemplateStringsArray, ...values: unknown[]) => unknown;
};
export default htm;
