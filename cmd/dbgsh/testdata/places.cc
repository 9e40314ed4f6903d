// A template and overloads: names that stand for several places.
template <typename T> __attribute__((noinline)) T twice(T v)
{
	return v + v;
}

__attribute__((noinline)) int over(int v) { return v + 1; }
__attribute__((noinline)) int over(double v) { return (int)v + 2; }

int main()
{
	return twice(1) + (int)twice(2.0) + (int)twice(3L) + over(1) + over(1.0) == 17 ? 0 : 1;
}
