export default class WaveSurfer {
  static create(options: object): WaveSurfer;
  on(event: string, listener: (value: never) => void): () => void;
  destroy(): void;
}
