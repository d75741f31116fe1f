export function useEffect(effect: () => (() => void) | undefined, inputs?: unknown[]): void;
export function useRef<T>(initial: T): { current: T };
