export interface Region {
  start: number;
  end: number;
  remove(): void;
  setOptions(options: object): void;
}
export default class Regions {
  static create(): Regions;
  on(event: string, listener: (region: Region) => void): () => void;
  addRegion(options: object): Region;
  getRegions(): Region[];
  enableDragSelection(options: object): () => void;
}
