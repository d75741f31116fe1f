export default class WaveSurfer {
  static create(options: object): WaveSurfer;
  on(event: string, listener: () => void): () => void;
  destroy(): void;
}
